"""A many-node cluster on one machine, in network namespaces: for users to try KAT, and for our tests.

Every machine of a lab has an agent, a store, container storage, a tunnel and a name server of its own; they share only
the kernel. What a test does to a machine, a user can do with ``katcall lab``.
"""
