"""Membership's wire format: authenticated messages of at most MAX_DATAGRAM bytes, filled with updates.

    message = version 1 | kind 1 | sender's boot id 6 | receiver's boot id 6 | number 4 | probe 4
              | target's boot id 6, in a PING_REQ | updates | MAC 16
    update  = kind 1 | length 2 | content

A *boot id* names one run of a node's agent: six random bytes. A message names the receiver's boot id, so a recording is
useless to another node, and to the same node after a restart; `number` counts the sender's messages, so that its
receiver accepts each only once (docs/decisions/0007). The MAC is a keyed BLAKE2b of all before it; the content is not
encrypted.

An update of an unknown kind is skipped, and what follows a known one's content is ignored: nodes of two versions meet
during every deployment. So is an update whose form is right and whose content cannot be (an address that no datagram
can be sent to, an incarnation that no clock reaches, an id that is not printable): one node that another one introduces
wrongly must not cost all that is in the same message. Everything else that does not fit raises ValueError, and the
whole message is dropped.
"""
