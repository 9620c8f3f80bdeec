"""Feeds: events and changes that the server pushes, first of the past and then new ones.

Subscriptions to events and to changes of keys, and the items that they deliver. Consumer groups
use the same feed; they live in headwater.groups.
"""
