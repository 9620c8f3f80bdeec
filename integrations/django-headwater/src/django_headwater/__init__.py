"""Django's cache and sessions on Headwater.

    django_headwater.cache.HeadwaterCache    BACKEND of an entry of CACHES
    django_headwater.sessions                SESSION_ENGINE
    django_headwater.databases.database      the open database of this process, for your own code

An entry is a key of Headwater: `(SPACE, name)`. It expires by the time of the server's log, so the
clocks of the web servers do not matter.
"""
