"""What asof does, to run and to read: `demo` is `make demo`, `agent_memory` the few lines that an application needs."""
