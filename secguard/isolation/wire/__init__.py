"""Raw sockets, interfaces, routes and namespaces."""
