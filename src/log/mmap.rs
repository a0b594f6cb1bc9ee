//! The only file with `unsafe`: reading a mapped file, and what happens when that fails.
//!
//! The map is read-only. It is never handed out: bytes are copied into the caller's own memory,
//! because the same pages are written with `pwrite` while readers are at work. What was copied is
//! foreign until its checksum was verified. Nothing here writes or changes the length of a file.
#![expect(unsafe_code, reason = "the one place where memory belongs to a file")]

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use signal_hook::consts::SIGBUS;

use crate::model::{to_u64, to_usize};

/// Exit code after a page of a mapped file could not be read.
pub const EXIT_BUS_ERROR: i32 = 71;

const WORD_SIZE: usize = size_of::<u64>();

/// A file mapped for reading.
#[derive(Debug)]
pub(super) struct Map {
    raw: MmapRaw,
}

impl Map {
    /// Maps the first `size` bytes, which the file must have as long as the map lives.
    pub(super) fn new(file: &File, size: usize) -> io::Result<Self> {
        let raw = MmapOptions::new().len(size).map_raw_read_only(file)?;
        Ok(Self { raw })
    }

    /// Copies bytes out. What is written meanwhile may or may not be in the copy, byte by byte.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(to_u64(bytes.len()));
        if end.is_none_or(|end| to_u64(self.raw.len()) < end) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = self.raw.as_ptr().wrapping_add(to_usize(offset));
        copy_out(start, bytes);
        Ok(())
    }

    /// Takes the file's pages out of this process's tables. What reads them next fetches them anew.
    pub(super) fn let_go(&self) -> io::Result<()> {
        // SAFETY: the map is shared and never written through: its pages hold what the file holds,
        // before and after.
        unsafe { self.raw.unchecked_advise(UncheckedAdvice::DontNeed) }
    }
}

/// Copies `bytes.len()` bytes from `start` on: words where it is aligned, bytes around them.
///
/// The caller has tested that they lie in the map.
fn copy_out(start: *const u8, bytes: &mut [u8]) {
    let ahead = start.align_offset(WORD_SIZE).min(bytes.len());
    let (head, rest) = bytes.split_at_mut(ahead);
    copy_bytes(start, head);
    let (words, tail) = rest.as_chunks_mut::<WORD_SIZE>();
    #[expect(clippy::cast_ptr_alignment, reason = "aligned by `ahead`")]
    let words_start = start.wrapping_add(ahead).cast::<u64>();
    for (index, word) in words.iter_mut().enumerate() {
        let from = words_start.wrapping_add(index);
        // SAFETY: `Map::read` tested that the range lies in the map, which lives as long as the
        // borrow of it; `align_offset` made the address a multiple of a word. Volatile, because
        // the kernel may change the page between two reads.
        let value = unsafe { from.read_volatile() };
        *word = u64::from_le(value).to_le_bytes();
    }
    let tail_start = words_start.wrapping_add(words.len()).cast::<u8>();
    copy_bytes(tail_start, tail);
}

fn copy_bytes(start: *const u8, bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        let from = start.wrapping_add(index);
        // SAFETY: as in `copy_out`; a byte has no alignment.
        *byte = unsafe { from.read_volatile() };
    }
}

/// From here on SIGBUS ends the process with one line and [`EXIT_BUS_ERROR`]: a mapped page that
/// cannot be read is a damaged disk or a file that someone truncated. Calling it again does
/// nothing.
pub fn exit_on_bus_error() -> io::Result<()> {
    static DONE: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        // SAFETY: the action makes two system calls, touches no lock and allocates nothing, so it
        // may run in a signal handler; it does not return.
        let registered = unsafe { signal_hook::low_level::register(SIGBUS, on_bus_error) };
        registered.map(drop).map_err(|error| error.kind())
    });
    done.map_err(io::Error::from)
}

fn on_bus_error() {
    const LINE: &[u8] = b"alarm: a mapped file cannot be read (SIGBUS): bad disk or cut file
";
    // There is nobody left to tell if stderr is gone.
    rustix::io::write(io::stderr(), LINE).unwrap_or(0);
    signal_hook::low_level::exit(EXIT_BUS_ERROR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn copies_are_exact_at_every_alignment() {
        let source: Vec<u8> = (0..=255).collect();
        for start in 0..16 {
            for size in [0, 1, 7, 8, 9, 64, 100] {
                let mut bytes = vec![0xaa; size];
                copy_out(source[start..].as_ptr(), &mut bytes);
                assert_eq!(bytes, source[start..start + size]);
            }
        }
    }

    /// Set in the copy of the test's process that is to meet its end.
    const CHILD: &str = "COUNTERFOIL_TEST_BUS_ERROR";

    #[test]
    fn a_cut_file_ends_the_process_with_one_line() {
        if std::env::var_os(CHILD).is_some() {
            exit_on_bus_error().unwrap();
            exit_on_bus_error().unwrap();
            let file = tempfile::tempfile().unwrap();
            file.set_len(8192).unwrap();
            let map = Map::new(&file, 8192).unwrap();
            file.set_len(0).unwrap();
            map.read(4096, &mut [0; 8]).unwrap();
            unreachable!("the page is gone");
        }
        let name = "log::mmap::tests::a_cut_file_ends_the_process_with_one_line";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(EXIT_BUS_ERROR));
        let words = String::from_utf8(child.stderr).unwrap();
        assert!(
            words.ends_with("(SIGBUS): bad disk or cut file\n"),
            "{words}"
        );
    }

    #[test]
    fn a_map_shows_what_is_written_and_ends_where_the_file_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        let map = Map::new(&file, 8192).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 3], 5000).unwrap();
        let mut bytes = [0; 5];
        map.read(4999, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 9, 9, 9, 7]);
        assert!(map.read(8190, &mut bytes).is_err());
        assert!(map.read(u64::MAX, &mut bytes).is_err());
        map.let_go().unwrap();
        map.read(4999, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 9, 9, 9, 7]);
    }
}
