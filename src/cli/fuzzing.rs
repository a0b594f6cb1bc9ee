//! What must hold for any text on the command line: shared by the fuzz targets and the replay of
//! their corpus. Nothing is run and nothing is looked up.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    reason = "a test aid: what fails here is what is looked for"
)]

use clap::Parser;

use super::Cli;
use super::daemon::{parse_new_node, parse_node, parse_segment_size};
use super::operate::{parse_currency, parse_id, parse_user};
use crate::backup::NODE_WEIGHT_MAX;
use crate::limits;
use crate::model::Choices;

/// Words that a command line is made of, besides the text's own.
const WORDS: &[&str] = &[
    "front",
    "node",
    "backup",
    "open",
    "close",
    "configure",
    "credit",
    "debit",
    "get",
    "list",
    "find",
    "audit",
    "status",
    "verify",
    "inspect",
    "dev",
    "drill",
    "completions",
    "--listen",
    "--backup",
    "--data-dir",
    "--id",
    "--nodes",
    "--segment-size",
    "--create",
    "--roles",
    "--strategy",
    "--routers",
    "--ids-max",
    "--insecure",
    "--if-version",
    "--open",
    "--up-to",
    "--floor",
    "--cap",
    "--frozen",
    "--reason",
    "--reference",
    "--json",
    "--deadline-ms",
    "--addr",
    "--burn",
    "--recent",
    "--help",
    "--version",
    "127.0.0.1:0",
    "[::1]:7",
    "1",
    "7",
    "d",
    "-",
    "64MiB",
    "1:2,2:32",
    "balancer,router",
    "least-load",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "9223372036854775807",
    "0",
];

/// The bytes as one text in the place of every value, and as a list of words.
pub fn check_values(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    check_ids(&text);
    check_numbers(&text);
    check_line(bytes);
}

/// What is read is bounded, and reads the same when it is printed.
fn check_ids(text: &str) {
    if let Ok(user) = parse_user(text) {
        assert!(user.get() != 0 && user.get() != u128::MAX);
        assert_eq!(parse_user(&user.to_string()), Ok(user));
    }
    if let Ok(id) = parse_id(text) {
        assert!(id.get() != 0 && id.get() != u128::MAX);
        assert_eq!(parse_id(&id.to_string()), Ok(id));
        let as_user = parse_user(text).unwrap();
        assert_eq!(as_user.get(), id.get(), "one text, two numbers");
    }
    if let Ok(currency) = parse_currency(text) {
        assert_eq!(parse_currency(&currency.get().to_string()), Ok(currency));
    }
}

fn check_numbers(text: &str) {
    if let Ok(node) = parse_node(text) {
        assert_eq!(parse_node(&node.to_string()), Ok(node));
    }
    if let Ok(new) = parse_new_node(text) {
        assert!((1..=NODE_WEIGHT_MAX).contains(&new.weight) && new.keys.is_empty());
        let printed = format!("{}:{}", new.node, new.weight);
        let again = parse_new_node(&printed).unwrap();
        assert_eq!((again.node, again.weight), (new.node, new.weight));
    }
    if let Ok(size) = parse_segment_size(text) {
        assert!(size.is_power_of_two());
        assert!((limits::SEGMENT_SIZE_MIN..=limits::SEGMENT_SIZE_MAX).contains(&size));
        assert_eq!(parse_segment_size(&size.to_string()), Ok(size));
    }
}

/// A line is refused in words, or understood; it never panics.
fn check_line(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut line = vec!["counterfoil".to_owned()];
    while !choices.is_empty() && line.len() < 16 {
        if choices.one_in(4) {
            let size = usize::from(choices.u8() % 24);
            let word = String::from_utf8_lossy(choices.bytes(size)).into_owned();
            line.push(word);
        } else {
            line.push(choices.one_of(WORDS).to_owned());
        }
    }
    match Cli::try_parse_from(line) {
        Ok(cli) => assert!(!format!("{:?}", cli.command).is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
