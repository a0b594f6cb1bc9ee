//! Reads protocol.md: its tables, and the fields and bytes of its vectors.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::str::FromStr;

/// The whole page.
pub(super) fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/protocol.md");
    std::fs::read_to_string(path).unwrap()
}

/// Fields of a vector or of one of its records, each to be taken exactly once.
#[derive(Debug)]
pub(super) struct Fields {
    place: String,
    list: Vec<(String, String)>,
    taken: BTreeSet<String>,
}

impl Fields {
    fn new(place: String, list: Vec<(String, String)>) -> Self {
        Self {
            place,
            list,
            taken: BTreeSet::new(),
        }
    }

    /// `key=value key=value ...`
    pub(super) fn of_record(line: &str) -> Self {
        let list = line
            .split(' ')
            .map(|field| {
                let (key, value) = field.split_once('=').expect(line);
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Self::new(line.to_owned(), list)
    }

    /// All values of a key that may come more than once.
    pub(super) fn all(&mut self, key: &str) -> Vec<String> {
        self.taken.insert(key.to_owned());
        let same = self.list.iter().filter(|(name, _)| name == key);
        same.map(|(_, value)| value.clone()).collect()
    }

    /// The value of a key, if it is there.
    pub(super) fn maybe(&mut self, key: &str) -> Option<String> {
        let values = self.all(key);
        assert!(values.len() <= 1, "{}: `{key}` comes twice", self.place);
        values.into_iter().next()
    }

    /// The value of a key that must be there.
    pub(super) fn text(&mut self, key: &str) -> String {
        let place = self.place.clone();
        self.maybe(key)
            .unwrap_or_else(|| panic!("{place}: no `{key}`"))
    }

    /// A number; 0 if it is not there.
    pub(super) fn number<T>(&mut self, key: &str) -> T
    where
        T: TryFrom<u128>,
        T::Error: Debug,
    {
        let value = self.maybe(key).map_or(0, |text| number(&text));
        T::try_from(value).unwrap_or_else(|error| panic!("{}: `{key}`: {error:?}", self.place))
    }

    /// A number with a sign; 0 if it is not there.
    pub(super) fn signed<T: FromStr + Default>(&mut self, key: &str) -> T
    where
        T::Err: Debug,
    {
        self.maybe(key)
            .map_or_else(T::default, |text| text.parse().unwrap())
    }

    /// Bytes as hexadecimal digits; none if they are not there.
    pub(super) fn bytes(&mut self, key: &str) -> Vec<u8> {
        self.maybe(key).map_or_else(Vec::new, |text| bytes(&text))
    }

    /// Every field must have been taken: a field that the test does not know proves nothing.
    pub(super) fn finish(&self) {
        for (key, _) in &self.list {
            assert!(self.taken.contains(key), "{}: what is `{key}`?", self.place);
        }
    }
}

/// A decimal number, or a hexadecimal one behind `0x`.
pub(super) fn number(text: &str) -> u128 {
    match text.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16).unwrap(),
        None => text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}")),
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "{digits}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// One fenced block of the language `vector`.
#[derive(Debug)]
pub(super) struct Block {
    /// What its first line says: `frame`, `operation`, `refuse` or `ring`, and of which kind.
    pub(super) subject: (String, String),
    /// The lines between the first one and the dashes.
    pub(super) fields: Fields,
    /// The lines behind the dashes.
    pub(super) lines: Vec<String>,
}

impl Block {
    /// The bytes of its hexadecimal lines. The offsets in their comments are checked.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for line in &self.lines {
            let (digits, comment) = line.split_once(';').expect(line);
            let offset = comment.split_whitespace().next().expect(line);
            assert_eq!(
                offset.parse(),
                Ok(all.len()),
                "{}: {line}",
                self.fields.place
            );
            all.extend(bytes(&digits.replace(' ', "")));
        }
        all
    }
}

/// All vectors of one subject, in order.
pub(super) fn blocks(subject: &str) -> Vec<Block> {
    let page = page();
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line != "```vector" {
            continue;
        }
        let mut head: Vec<(String, String)> = Vec::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "--") {
            let (key, value) = line.split_once(": ").expect(line);
            head.push((key.to_owned(), value.to_owned()));
        }
        let body = lines.by_ref().take_while(|(_, line)| *line != "```");
        let block = Block {
            subject: head.remove(0),
            fields: Fields::new(format!("protocol.md:{}", index + 1), head),
            lines: body.map(|(_, line)| line.to_owned()).collect(),
        };
        if block.subject.0 == subject {
            blocks.push(block);
        }
    }
    assert!(!blocks.is_empty(), "no vectors of {subject}");
    blocks
}

/// The cells of the rows of one table, without back-ticks.
pub(super) type Table = Vec<Vec<String>>;

/// All tables whose first line is `head`, in order.
pub(super) fn tables(head: &str) -> Vec<Table> {
    let page = page();
    let mut tables = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line != head {
            continue;
        }
        let rows = lines
            .by_ref()
            .skip(1)
            .take_while(|line| line.starts_with('|'));
        tables.push(rows.map(cells).collect());
    }
    assert!(!tables.is_empty(), "no table `{head}`");
    tables
}

/// The only table whose first line is `head`.
pub(super) fn table(head: &str) -> Table {
    let mut tables = tables(head);
    assert_eq!(tables.len(), 1, "`{head}` is there {} times", tables.len());
    tables.remove(0)
}

fn cells(row: &str) -> Vec<String> {
    let inner = row
        .strip_prefix('|')
        .and_then(|row| row.strip_suffix('|'))
        .expect(row);
    inner
        .replace("\\|", "/")
        .split('|')
        .map(|cell| cell.trim().replace('`', ""))
        .collect()
}
