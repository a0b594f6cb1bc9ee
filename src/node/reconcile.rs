//! Compares two histories of one log and says what is to be done about the difference.
//!
//! Pure. A block is known by its term and seq: one term has one owner, which builds one block of
//! each seq. So two copies agree up to the end of the newest term that both have, in the shorter
//! of the two. The chain value at that point is compared by who acts on the verdict.

use crate::model::{LogEnd, Seq, Term, TermStart};

/// One copy of a log: its end and its term history, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct History<'a> {
    pub(super) end: LogEnd,
    pub(super) terms: &'a [TermStart],
}

/// What the comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Both have the same blocks up to `common`, and no more of one history goes on behind it.
    /// `common` is at most either end.
    Common(Seq),
    /// One term begins at different blocks: two owners used the same term.
    Torn {
        /// The term.
        term: Term,
        /// Where it begins here.
        here: Seq,
        /// Where it begins there.
        there: Seq,
    },
}

impl History<'_> {
    /// The last block of the term at `index`.
    fn last_of(&self, index: usize) -> Seq {
        match self.terms.get(index + 1) {
            Some(next) => Seq(next.seq.0.saturating_sub(1)),
            None => self.end.seq,
        }
    }

    /// The term of block `seq`; 0 where the history does not reach back so far.
    pub(super) fn term_of(&self, seq: Seq) -> Term {
        self.terms
            .iter()
            .rev()
            .find(|start| start.seq <= seq)
            .map_or(Term(0), |start| start.term)
    }
}

/// The highest block that both copies have.
pub(super) fn compare(here: History<'_>, there: History<'_>) -> Verdict {
    if here.end.seq == Seq(0) || there.end.seq == Seq(0) {
        return Verdict::Common(Seq(0));
    }
    for (index_here, start_here) in here.terms.iter().enumerate().rev() {
        let found = there
            .terms
            .iter()
            .rposition(|start| start.term == start_here.term);
        let Some(index_there) = found else {
            continue;
        };
        let start_there = there.terms[index_there];
        // The oldest term that is kept may be cut at its front, by retirement or by the bound of
        // a message: only a beginning with an older term before it is known to be one.
        let both_known = 0 < index_here && 0 < index_there;
        if both_known && start_here.seq != start_there.seq {
            return Verdict::Torn {
                term: start_here.term,
                here: start_here.seq,
                there: start_there.seq,
            };
        }
        let common = here.last_of(index_here).min(there.last_of(index_there));
        return Verdict::Common(common);
    }
    Verdict::Common(Seq(0))
}

/// What the term history of `terms` is up to `end`, both included.
pub(super) fn cut_terms(terms: &mut Vec<TermStart>, end: Seq) {
    terms.retain(|start| start.seq <= end);
}

/// Notes the term of block `seq` if it is a new one.
pub(super) fn note_term(terms: &mut Vec<TermStart>, term: Term, seq: Seq) {
    if terms.last().is_none_or(|last| last.term < term) {
        terms.push(TermStart { term, seq });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms as `term@seq`, then `..end`.
    fn history(text: &str) -> (LogEnd, Vec<TermStart>) {
        let (terms, end) = text.split_once("..").unwrap();
        let terms: Vec<TermStart> = terms
            .split_whitespace()
            .map(|start| {
                let (term, seq) = start.split_once('@').unwrap();
                TermStart {
                    term: Term(term.parse().unwrap()),
                    seq: Seq(seq.parse().unwrap()),
                }
            })
            .collect();
        let end = LogEnd {
            seq: Seq(end.parse().unwrap()),
            ..LogEnd::default()
        };
        (end, terms)
    }

    fn check(here: &str, there: &str, expected: Verdict) {
        let (end_here, terms_here) = history(here);
        let (end_there, terms_there) = history(there);
        let here = History {
            end: end_here,
            terms: &terms_here,
        };
        let there = History {
            end: end_there,
            terms: &terms_there,
        };
        assert_eq!(compare(here, there), expected);
    }

    #[test]
    fn the_newest_common_term_decides() {
        check("..0", "1@1 ..9", Verdict::Common(Seq(0)));
        check("1@1 ..9", "..0", Verdict::Common(Seq(0)));
        check("1@1 ..9", "1@1 ..9", Verdict::Common(Seq(9)));
        check("1@1 ..5", "1@1 ..9", Verdict::Common(Seq(5)));
        check("1@1 ..9", "1@1 ..5", Verdict::Common(Seq(5)));
        // An owner with term 2 built something else behind block 5.
        check("1@1 ..9", "1@1 2@6 ..9", Verdict::Common(Seq(5)));
        check("1@1 ..9", "1@1 2@6 3@7 ..8", Verdict::Common(Seq(5)));
        // A owns 1, B owns 2, A owns 3: what A has of 1 beyond B's beginning goes.
        check(
            "1@1 3@12 ..14",
            "1@1 2@6 3@9 ..20",
            Verdict::Torn {
                term: Term(3),
                here: Seq(12),
                there: Seq(9),
            },
        );
        check("1@1 4@10 ..14", "1@1 2@6 3@9 ..20", Verdict::Common(Seq(5)));
        check("7@1 ..4", "8@1 ..4", Verdict::Common(Seq(0)));
        // The front of the history is not kept: no beginning to compare.
        check(
            "5@900 6@950 ..990",
            "5@100 6@950 ..990",
            Verdict::Common(Seq(990)),
        );
        check("5@900 ..990", "5@100 ..995", Verdict::Common(Seq(990)));
    }

    #[test]
    fn terms_are_noted_and_cut() {
        let (end, mut terms) = history("1@1 2@6 4@9 ..12");
        let history = History { end, terms: &terms };
        assert_eq!(history.term_of(Seq(5)), Term(1));
        assert_eq!(history.term_of(Seq(9)), Term(4));
        cut_terms(&mut terms, Seq(8));
        assert_eq!(terms.len(), 2);
        note_term(&mut terms, Term(2), Seq(9));
        assert_eq!(terms.len(), 2);
        note_term(&mut terms, Term(5), Seq(9));
        assert_eq!(
            terms.last(),
            Some(&TermStart {
                term: Term(5),
                seq: Seq(9)
            })
        );
    }
}
