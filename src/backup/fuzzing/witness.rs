//! Who was told what, and whether the disk bears it out.

use std::collections::BTreeMap;

use super::bench::{Bench, FakeNode};
use crate::model::{Incarnation, LogNumber, Seq, Term, to_usize};
use crate::protocol::Message;

/// Where the first entry of a block has the incarnation of its writer.
const WRITER_AT: usize = 128 + 100;

#[derive(Default)]
pub(super) struct Witness {
    /// Who was ever told that it has a term.
    terms: BTreeMap<(LogNumber, Term), Incarnation>,
    /// Chain value of every block that was ever acknowledged.
    acknowledged: BTreeMap<(LogNumber, Seq), u64>,
    /// What was ever asked to be confirmed.
    pub(super) nonces: BTreeMap<Incarnation, Vec<u64>>,
}

impl Witness {
    /// Looks at all that a life was told.
    pub(super) fn listen(&mut self, bench: &mut Bench, life: &mut FakeNode) {
        let Some(peer) = life.peer else { return };
        let mut is_lost = false;
        let mut granted = None;
        let blocks = &life.blocks;
        let (terms, acknowledged) = (&mut self.terms, &mut self.acknowledged);
        let nonces = self.nonces.get(&life.incarnation);
        let mut term = life.term;
        bench.take(peer, |_, message| match message {
            Message::Granted(grant) => {
                let known = terms.insert((grant.log, grant.term), life.incarnation);
                let is_one = known.is_none_or(|known| known == life.incarnation);
                assert!(is_one, "term {} of {} has two", grant.term, grant.log);
                assert!(term <= grant.term, "a term fell");
                term = grant.term;
                granted = Some((grant.log, grant.term, grant.copy, grant.end.seq));
            }
            Message::Appended(appended) => {
                assert_eq!(appended.term, term, "acknowledged in another term");
                let through = to_usize(appended.through.0).min(blocks.len());
                for (end, _) in &blocks[..through] {
                    let known = acknowledged.insert((appended.log, end.seq), end.chain);
                    assert!(known.is_none_or(|known| known == end.chain), "{end:?}");
                }
            }
            Message::Confirmed(confirmed) => {
                assert_eq!(confirmed.term, term);
                let is_asked = nonces.is_some_and(|nonces| nonces.contains(&confirmed.nonce));
                assert!(is_asked, "an invented confirmation");
            }
            Message::Refused(_) => is_lost = true,
            _ => (),
        });
        if let Some((log, term, copy, end)) = granted {
            life.log = Some(log);
            life.term = term;
            life.copy = copy;
            // As if it had fetched what is durable, and put aside what contradicts it.
            life.blocks = bench.disk.logs[&log].blocks[..to_usize(end.0)].to_vec();
        }
        if is_lost || bench.closing.contains(&peer) {
            life.peer = None;
        }
    }

    /// What was acknowledged is on the disk, and every block is the only one of its place,
    /// written by the one owner of its term.
    pub(super) fn judge(&self, bench: &Bench) {
        for ((log, seq), chain) in &self.acknowledged {
            let blocks = &bench.disk.logs[log].blocks;
            let (end, _) = &blocks[to_usize(seq.0) - 1];
            assert_eq!((end.seq, end.chain), (*seq, *chain), "lost");
        }
        for (log, here) in &bench.disk.logs {
            let mut term = Term(0);
            for (end, bytes) in &here.blocks {
                assert!(term <= end.term);
                term = end.term;
                let writer = bytes[WRITER_AT..WRITER_AT + 16].try_into().unwrap();
                let owner = self.terms[&(*log, end.term)].get();
                assert_eq!(u128::from_le_bytes(writer), owner, "two write in {term}");
            }
        }
    }
}
