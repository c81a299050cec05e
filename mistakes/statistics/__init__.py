"""Statistics on arrays: they know no table, no parameter and no stage."""
