"""One file per kind of rows: what leaves the device, and how a window of it becomes bytes."""
