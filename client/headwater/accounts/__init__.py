"""Users' rights and roles: what each user of a database may do."""
