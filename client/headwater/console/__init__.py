"""The console: pages that show a database at any moment of its history, for people with a browser.

    browser --HTTP--> app.py --> guard.py --> sessions.py --> pages/… --> templates
                                                 '-- a Database for each user who has logged in

It is a client like any other: whatever it shows, its user may read. Nothing of the client imports
this package, and it needs the extra `headwater[console]`. What comes in: what has to do with HTTP,
HTML and the browser. What reads the database for a page belongs to `pages`.
"""
