"""Everything cryptographic: pure, without sockets, rows or a framework."""
