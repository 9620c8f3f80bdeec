"""Feeds: what the server pushes, from history into what is still to come.

Subscriptions to events and to changes of keys, and the items that they deliver. Consumer groups
use the same feed; they live in headwater.groups.
"""
