//! The clients' own record: every intent before it is sent, every answer when it comes, one line
//! each in a file that grows as they go. The only thing that the checker believes.
//!
//! Every line has a number; they rise. An answer was there before every intent with a higher
//! number was sent: that is the real-time order that reads and writes are judged by.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use counterfoil::model::{OPERATION_SIZE, Operation, Place, Receipt, ReceiptFlags, ResultCode};

/// What a client meant to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Number of its line.
    pub(crate) number: u64,
    /// The operation, whole.
    pub(crate) operation: Operation,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Number of its line.
    pub(crate) number: u64,
    /// The answer.
    pub(crate) receipt: Receipt,
}

/// An intent and its answer, if one came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) intent: Intent,
    pub(crate) told: Option<Told>,
}

/// The record that is being written.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    file: Mutex<Pen>,
}

#[derive(Debug)]
struct Pen {
    file: File,
    next: u64,
}

impl Record {
    pub(crate) fn create(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::new(Pen {
                file: File::create(path).expect("the record can be written"),
                next: 1,
            }),
        }
    }

    /// Writes down what is about to be sent. The number of the first; the others follow it.
    pub(crate) fn intend(&self, operations: &[Operation]) -> u64 {
        let mut pen = self.file.lock().expect("writing does not panic");
        let first = pen.next;
        let mut text = String::new();
        for operation in operations {
            text.push_str(&intent_line(pen.next, operation));
            pen.next += 1;
        }
        pen.write(&text);
        first
    }

    /// Writes down what came back for the intents from number `first` on.
    pub(crate) fn hear<'a>(&self, first: u64, receipts: impl Iterator<Item = &'a Receipt>) {
        let mut pen = self.file.lock().expect("writing does not panic");
        let mut text = String::new();
        for (intent, receipt) in (first..).zip(receipts) {
            text.push_str(&told_line(pen.next, intent, receipt));
            pen.next += 1;
        }
        pen.write(&text);
    }

    /// Writes down what was done to the cluster: for whoever reads the file. Its number.
    pub(crate) fn note(&self, text: &str) -> u64 {
        let mut pen = self.file.lock().expect("writing does not panic");
        let number = pen.next;
        pen.next += 1;
        pen.write(&format!("# {number} {text}\n"));
        number
    }

    /// Everything that was written so far, read back from the file.
    pub(crate) fn read(&self) -> Vec<Event> {
        // Whole lines only: nobody writes meanwhile.
        let _pen = self.file.lock().expect("writing does not panic");
        let file = File::open(&self.path).expect("the record is there");
        let mut events: Vec<Event> = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.expect("the record is text");
            let mut words = line.split(' ');
            match words.next() {
                Some("I") => events.push(Event {
                    intent: read_intent(&mut words),
                    told: None,
                }),
                Some("A") => read_told(&mut words, &mut events),
                _ => assert!(line.starts_with('#'), "not a line of a record: {line}"),
            }
        }
        events
    }
}

impl Pen {
    fn write(&mut self, text: &str) {
        self.file
            .write_all(text.as_bytes())
            .expect("the record can be written");
    }
}

/// In words for the reader, and byte for byte for the checker.
fn intent_line(number: u64, operation: &Operation) -> String {
    let mut line = format!(
        "I {number} {}:{}:{}:{} ",
        operation.kind().name(),
        operation.user().get(),
        operation.currency(),
        operation.amount(),
    );
    for byte in operation.to_bytes() {
        line.push(digit(byte >> 4));
        line.push(digit(byte & 15));
    }
    line.push('\n');
    line
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).expect("four bits")
}

fn told_line(number: u64, intent: u64, receipt: &Receipt) -> String {
    format!(
        "A {number} {intent} {} {} {} {} {} {} {}\n",
        receipt.code as u16,
        receipt.flags.0,
        receipt.available,
        receipt.held,
        receipt.version,
        receipt.place.0,
        receipt.amount,
    )
}

fn word<'a>(words: &mut impl Iterator<Item = &'a str>) -> &'a str {
    words.next().expect("a whole line of a record")
}

fn number<'a, T: std::str::FromStr>(words: &mut impl Iterator<Item = &'a str>) -> T {
    let word = word(words);
    let parsed = word.parse().ok();
    parsed.unwrap_or_else(|| panic!("no number in a record: {word}"))
}

fn read_intent<'a>(words: &mut impl Iterator<Item = &'a str>) -> Intent {
    let line = number(words);
    word(words);
    let text = word(words).as_bytes();
    let mut bytes = [0; OPERATION_SIZE];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).expect("ASCII");
        *byte = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
    }
    Intent {
        number: line,
        operation: Operation::read(&bytes).expect("an operation that was sent"),
    }
}

fn read_told<'a>(words: &mut impl Iterator<Item = &'a str>, events: &mut [Event]) {
    let line = number(words);
    let intent: u64 = number(words);
    let code = ResultCode::from_number(number(words)).expect("a known code");
    let receipt = Receipt {
        index: 0,
        code,
        flags: ReceiptFlags(number(words)),
        available: number(words),
        held: number(words),
        version: number(words),
        place: Place(number(words)),
        amount: number(words),
    };
    let position = events.binary_search_by_key(&intent, |event| event.intent.number);
    let event = &mut events[position.expect("an answer follows its intent")];
    assert!(event.told.is_none(), "two answers to intent {intent}");
    event.told = Some(Told {
        number: line,
        receipt,
    });
}
