//! How results and failures look, for people and for programs.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use super::{exit_code, waiting};
use crate::client::ClientError;
use crate::role::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    name: &'static str,
    message: String,
    hint: &'static str,
    retryable: bool,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, name: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            name,
            message: message.into(),
            hint: "",
            retryable: false,
        }
    }

    pub(crate) const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// For a command that exits with 0 only where it proved something: whatever kept it from that,
    /// it did not.
    pub(super) const fn proves_nothing(mut self) -> Self {
        self.code = ExitCode::Damage;
        self
    }

    /// Says it on standard error and gives the exit code.
    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "it is the flag of the command line"
    )]
    pub(crate) fn print(&self, json: bool) -> ExitCode {
        let text = if json {
            json!({ "error": {
                "code": self.code as u8, "name": self.name, "message": self.message,
                "hint": self.hint, "retryable": self.retryable,
            }})
            .to_string()
        } else if self.hint.is_empty() {
            format!("error: {}", self.message)
        } else {
            format!("error: {}\n  {}", self.message, self.hint)
        };
        error_line(&text);
        self.code
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = exit_code(&error);
        let name = error.name();
        Self {
            code,
            name,
            message: error.to_string(),
            hint: "",
            retryable: error.may_retry(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ExitCode::Unhealthy, "failed", format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(ExitCode::Unhealthy, "io", error.to_string())
    }
}

/// One line of a result. A reader that went away is no failure of the command.
pub(super) fn line(text: &str) {
    waiting::end();
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// One line beside the result.
pub(super) fn error_line(text: &str) {
    waiting::end();
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// A JSON object as the result.
pub(super) fn object(value: &Value) {
    line(&value.to_string());
}

/// Is somebody watching the side channel?
pub(super) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Aligned `name  value` lines.
pub(super) fn fields(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        line(&format!("{name:width$}  {value}"));
    }
}

/// A table with a head.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(head.iter().copied());
    table.add_rows(rows);
    for text in table.to_string().lines() {
        line(text.trim_end());
    }
}

/// What the parser of the command line had to say: help and version are results, the rest is not.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    if error.use_stderr() {
        ExitCode::Usage
    } else {
        ExitCode::Ok
    }
}

pub(super) fn completions(shell: clap_complete::Shell, command: &mut clap::Command) {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "counterfoil", &mut script);
    drop(std::io::stdout().lock().write_all(&script));
}

/// 1234567 as "1,234,567".
pub(super) fn grouped(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(-1_234_567), "-1,234,567");
    }
}
