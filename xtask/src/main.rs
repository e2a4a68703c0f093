//! `cargo xtask CHECK`: one command for every check of the repository.
fn main() {}
