"""The measurement log's shell: where a log is kept, how it is read over HTTPS or from a folder, and `mrgc log`."""
