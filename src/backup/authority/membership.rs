//! What the authority keeps about one node: its log, its term, and who may go on with the log.

use std::net::SocketAddr;

use crate::canary::{self, Bug};
use crate::limits::GRANT_COUNT_MAX;
use crate::model::{Incarnation, LogEnd, LogNumber, Seq, Slot, Term};

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberRecord {
    /// Its log. Never another node's, never again after it is retired.
    pub(crate) log: LogNumber,
    /// 128 drawn node keys for each unit, unless `keys` are given; 0 = no keys in any case.
    pub(crate) weight: u32,
    /// Preset node keys; empty = drawn by weight.
    pub(crate) keys: Vec<Slot>,
    /// The newest term of its log; 0 before the first.
    pub(crate) term: Term,
    /// Who got that term.
    pub(crate) incarnation: Option<Incarnation>,
    /// Identity of the one copy of the log that may go on; 0 before the first grant.
    pub(crate) copy: u128,
    /// The identity before that: valid until the first append of the term, because the node may
    /// have died before it kept the new one. 0 = none.
    pub(crate) copy_previous: u128,
    /// Where fronts reach it.
    pub(crate) address: Option<SocketAddr>,
    /// Two histories of its log differ: no appends until the node comes with an empty folder.
    pub(crate) diverged: bool,
    /// Its slots go to the others, and it gets none.
    pub(crate) draining: bool,
    /// Its log was taken over: it gets slots again once it was back for a while.
    pub(crate) emptied: bool,
    /// A block of its log that was durable here: a log that ends before it lacks something.
    pub(crate) reached: Seq,
    /// When this was the newest term, a start of the backup put an unfinished write aside: it may
    /// have been damage to blocks that were acknowledged. 0 = never.
    pub(crate) doubted: Term,
    /// The newest grants, oldest first.
    pub(crate) grants: Vec<Grant>,
}

/// To whom a term was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum GrantedTo {
    /// To the node whose log it is.
    Node = 0,
    /// To the backup itself, so that it hands the slots over.
    Backup = 1,
}

/// One term that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The term.
    pub(crate) term: Term,
    /// To whom.
    pub(crate) incarnation: Incarnation,
    /// Last block of the log at that moment, durable here.
    pub(crate) seq: Seq,
    /// Its chain value.
    pub(crate) chain: u64,
    /// When, Unix milliseconds.
    pub(crate) time_ms: u64,
    /// To whom.
    pub(crate) to: GrantedTo,
}

/// What a node shows of its copy of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing: its folder is empty.
    Empty,
    /// A log and the identity of its copy of it.
    Copy {
        /// Which log.
        log: LogNumber,
        /// Which copy.
        copy: u128,
    },
}

impl MemberRecord {
    /// A node that never registered.
    pub(crate) const fn new(log: LogNumber, weight: u32, keys: Vec<Slot>) -> Self {
        Self {
            log,
            weight,
            keys,
            term: Term(0),
            incarnation: None,
            copy: 0,
            copy_previous: 0,
            address: None,
            diverged: false,
            draining: false,
            emptied: false,
            reached: Seq(0),
            doubted: Term(0),
            grants: Vec::new(),
        }
    }

    /// Does the rule give it slots?
    pub(crate) const fn takes_part(&self) -> bool {
        self.weight != 0 && !self.draining && !self.emptied
    }

    /// Is its newest term the backup's own?
    pub(crate) fn is_backups(&self) -> bool {
        let last = self.grants.last();
        last.is_some_and(|grant| grant.to == GrantedTo::Backup)
    }

    /// Did the term of this incarnation end because the backup took the log over?
    pub(crate) fn was_taken_from(&self, incarnation: Incarnation) -> bool {
        let mut pairs = self.grants.iter().zip(self.grants.iter().skip(1));
        pairs.any(|(grant, next)| grant.incarnation == incarnation && next.to == GrantedTo::Backup)
    }

    /// Had this incarnation a term of this log that went to another one since?
    pub(crate) fn was_replaced(&self, incarnation: Incarnation) -> bool {
        self.incarnation != Some(incarnation)
            && self
                .grants
                .iter()
                .any(|grant| grant.incarnation == incarnation)
    }

    /// May what is shown go on with this log?
    pub(crate) fn takes(&self, shown: Shown) -> bool {
        match shown {
            Shown::Empty => true,
            Shown::Copy { log, copy } => {
                log == self.log && copy != 0 && (copy == self.copy || copy == self.copy_previous)
            }
        }
    }

    /// Gives the next term to `incarnation`, whose copy of the log is `copy` from now on.
    pub(crate) fn grant(
        &mut self,
        incarnation: Incarnation,
        shown: Shown,
        copy: u128,
        end: &LogEnd,
        time_ms: u64,
    ) {
        assert!(copy != 0);
        assert!(copy != self.copy);
        self.copy_previous = match shown {
            Shown::Empty => self.copy,
            Shown::Copy { copy: kept, .. } => kept,
        };
        self.copy = copy;
        if matches!(shown, Shown::Empty) {
            self.diverged = false;
            // Nobody has more than what is here.
            self.reached = self.reached.min(end.seq);
            self.doubted = Term(0);
        }
        self.next_term(incarnation, GrantedTo::Node, end, time_ms);
    }

    /// The block behind which the newest term was granted.
    pub(crate) fn granted_behind(&self) -> Option<Seq> {
        self.grants.last().map(|grant| grant.seq)
    }

    /// Block `seq` of its log is durable here.
    pub(crate) fn reach(&mut self, seq: Seq) {
        self.reached = self.reached.max(seq);
    }

    /// Can the log, durable up to `end`, lack what was acknowledged in a term that was doubted?
    /// Whoever has a later term sent all that it had before its own first block.
    pub(crate) fn is_doubtful(&self, end: &LogEnd) -> bool {
        self.doubted != Term(0) && end.term <= self.doubted
    }

    /// Gives the next term to the backup itself. Which copy of the log may go on stays as it is.
    pub(crate) fn take_over(&mut self, incarnation: Incarnation, end: &LogEnd, time_ms: u64) {
        self.emptied = true;
        self.next_term(incarnation, GrantedTo::Backup, end, time_ms);
    }

    fn next_term(&mut self, incarnation: Incarnation, to: GrantedTo, end: &LogEnd, time_ms: u64) {
        if !canary::on(Bug::SameTerm) || self.term == Term(0) {
            self.term = self.term.next();
        }
        self.incarnation = Some(incarnation);
        if self.grants.len() == GRANT_COUNT_MAX {
            self.grants.remove(0);
        }
        self.grants.push(Grant {
            term: self.term,
            incarnation,
            seq: end.seq,
            chain: end.chain,
            time_ms,
            to,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn log(number: u16) -> LogNumber {
        LogNumber::new(number).unwrap()
    }

    fn shown(copy: u128) -> Shown {
        Shown::Copy { log: log(3), copy }
    }

    #[test]
    fn the_previous_copy_may_go_on_until_the_new_one_is_used() {
        let mut member = MemberRecord::new(log(3), 1, Vec::new());
        let end = LogEnd::default();
        member.grant(life(1), Shown::Empty, 10, &end, 0);
        assert!(member.takes(shown(10)));
        assert!(!member.takes(shown(0)));
        assert!(!member.takes(Shown::Copy {
            log: log(4),
            copy: 10
        }));
        member.grant(life(2), shown(10), 20, &end, 0);
        assert!(member.takes(shown(10)));
        assert!(member.takes(shown(20)));
        // The node died before it kept 20: from here on 20 is nobody's.
        member.grant(life(3), shown(10), 30, &end, 0);
        assert!(member.takes(shown(10)));
        assert!(!member.takes(shown(20)));
        member.copy_previous = 0;
        assert!(!member.takes(shown(10)));
        assert_eq!(member.term, Term(3));
    }

    #[test]
    fn a_replaced_incarnation_is_known() {
        let mut member = MemberRecord::new(log(3), 1, Vec::new());
        for number in 1..=30 {
            member.grant(life(number), Shown::Empty, number, &LogEnd::default(), 0);
        }
        assert_eq!(member.grants.len(), GRANT_COUNT_MAX);
        assert!(member.was_replaced(life(29)));
        assert!(!member.was_replaced(life(30)));
        assert!(!member.was_replaced(life(31)));
    }
}
