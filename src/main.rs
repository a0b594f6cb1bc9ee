//! Parses the command line, calls one command and maps its result to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(counterfoil::cli::main(std::env::args_os()) as u8)
}
