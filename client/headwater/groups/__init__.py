"""Consumer groups: many processes share the events of one feed.

Administration of groups, membership in one, and the deliveries that a member acknowledges.
"""
