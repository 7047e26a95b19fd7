"""How fast the service is, beside what its framework can do on this machine: `just bench`."""
