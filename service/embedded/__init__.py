"""The bundled PostgreSQL and Valkey of `vestibule dev` and of the tests (Linux and macOS).

One folder holds the data between runs; the first run on it owns the servers, later ones share them. Import
`EmbeddedServers` from `service.embedded.servers` and `EmbeddedError` from `service.embedded.errors`.
From the top floor down: `servers` > `postgres`, `valkey` > `placement`, `folders` > `processes`, `packages`.
"""
