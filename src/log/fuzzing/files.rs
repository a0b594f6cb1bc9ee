//! Checkpoints and small files that nobody wrote, or that were damaged since.

use std::sync::OnceLock;

use super::lives::verify;
use crate::log::base::Base;
use crate::log::checkpoint::forge;
use crate::log::{
    CHECKPOINT_PAGE_SIZE, Checkpoint, CheckpointSpec, CheckpointWriter, LogError, Medium,
    MemoryMedium, SmallFile, load, save,
};
use crate::model::{Choices, LogEnd, LogTime, Seq, Term, TermStart, to_u64, to_usize};

const PATH: &str = "logs/00003/checkpoint-0000000000001000";

/// Damages a good checkpoint by what the bytes choose, now and then with good checksums.
///
/// Reading never panics; a changed byte is always found unless all checksums were mended; what
/// is read of a mended one is whole records of bounded size.
pub fn check_checkpoint(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let good = good();
    let medium = MemoryMedium::new();
    let file = medium.create(PATH).unwrap();
    let mut content = good.clone();
    let change_count = choices.below(6);
    for _ in 0..change_count {
        change(&mut choices, &mut content);
    }
    let is_forged = choices.one_in(2);
    if is_forged {
        forge(&mut content);
    }
    file.write_at(0, &content).unwrap();
    let read = read(&medium);
    if content == *good {
        read.unwrap();
    } else if !is_forged {
        assert!(read.is_err(), "damage is not found");
    }
}

/// Reads all of it, as a starting node does.
fn read(medium: &MemoryMedium) -> Result<(), LogError> {
    let checkpoint = Checkpoint::open(medium, PATH)?.unwrap();
    let header = checkpoint.header().clone();
    checkpoint.verify(verify().log)?;
    checkpoint.terms()?;
    let mut counts = Vec::new();
    for index in 0..header.page_count {
        let page = checkpoint.page(index)?;
        assert!(page.records.len().is_multiple_of(page.record_size));
        counts.push((page.tag, page.records.len().div_euclid(page.record_size)));
    }
    for section in &header.sections {
        let of_section = counts.iter().filter(|(tag, _)| *tag == section.tag);
        let count: usize = of_section.map(|(_, count)| count).sum();
        assert_eq!(to_u64(count), section.record_count);
    }
    let raw = checkpoint.raw(0, u32::MAX)?;
    assert!(Some(raw.to_vec()) == medium.content(PATH));
    Ok(())
}

/// A checkpoint of three sections, one of them of two pages.
fn good() -> &'static Vec<u8> {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let medium = MemoryMedium::new();
        let spec = CheckpointSpec {
            cluster: verify().cluster,
            log: verify().log,
            ring_key: 5,
        };
        let mut writer = CheckpointWriter::create(&medium, PATH, spec).unwrap();
        for (tag, size, count) in [(1_u16, 64_u64, 3), (3, 80, 900), (4, 24, 9)] {
            let records: Vec<u8> = (0..size * count)
                .map(|at: u64| at.to_le_bytes()[0])
                .collect();
            writer.push(tag, to_usize(size), &records).unwrap();
        }
        let end = LogEnd {
            seq: Seq(9),
            term: Term(2),
            chain: 77,
            offset: 4_096,
            time: LogTime(500),
        };
        let terms = [(1, 1), (2, 6)].map(|(term, seq)| TermStart {
            term: Term(term),
            seq: Seq(seq),
        });
        writer.finish(end, &terms).unwrap();
        medium.content(PATH).unwrap()
    })
}

fn change(choices: &mut Choices<'_>, content: &mut Vec<u8>) {
    let in_header = choices.one_in(2);
    let at = if in_header {
        to_usize(choices.below(300))
    } else {
        // Near the beginning of a page, where its header is.
        let page = to_usize(choices.below(5));
        4_096 + page * CHECKPOINT_PAGE_SIZE + to_usize(choices.below(1 << 8))
    };
    match choices.below(8) {
        0 => content.truncate(at),
        1 => content.resize(at.max(content.len()), 0),
        2 => {
            let size = to_usize(choices.below(256));
            content.extend_from_slice(choices.bytes(size));
        }
        3 if at + CHECKPOINT_PAGE_SIZE < content.len() => {
            let page = content[at..at + CHECKPOINT_PAGE_SIZE].to_vec();
            content.extend_from_slice(&page);
        }
        _ => {
            let size = to_usize(1 + choices.below(8));
            let new = choices.bytes(size);
            if let Some(old) = content.get_mut(at..at + new.len()) {
                old.copy_from_slice(new);
            }
        }
    }
}

/// Any bytes under the name of each small file, bare and behind a good header.
///
/// What is loaded is what would be saved, and a base that is read is written as the same bytes.
pub fn check_small_file(bytes: &[u8]) {
    let files = [
        SmallFile::Kind,
        SmallFile::Identity,
        SmallFile::Authority,
        SmallFile::Base,
    ];
    for file in files {
        let medium = MemoryMedium::new();
        let bare = medium.create(file.name()).unwrap();
        bare.write_at(0, bytes).unwrap();
        match load(&medium, "", file) {
            Ok(content) => {
                save(&medium, "", file, &content.unwrap()).unwrap();
                assert!(medium.content(file.name()).unwrap() == bytes);
            }
            Err(error) => assert!(matches!(error, LogError::Damage(_)), "{error}"),
        }
        save(&medium, "", file, bytes).unwrap();
        assert!(load(&medium, "", file).unwrap().unwrap() == bytes);
    }
    if let Some(base) = Base::read(bytes) {
        assert!(base.to_bytes() == bytes, "{base:?} is not canonical");
        assert!(base.first_segment() <= base.after.offset);
    }
}
