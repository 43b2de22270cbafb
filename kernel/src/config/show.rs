//! What `config show` prints.
