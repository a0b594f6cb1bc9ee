//! Parses the command line, calls one command and maps its result to an exit code.

fn main() {}
