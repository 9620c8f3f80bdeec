"""`python -m headwater_server`: the server's commands, without the client's."""

from headwater_server.cli.main import main

if __name__ == "__main__":
    main()
