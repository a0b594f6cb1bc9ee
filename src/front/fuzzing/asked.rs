//! Every operation that a client asked, its copies, and whether an answer to it can be true.

use std::collections::BTreeMap;

use crate::model::{CodeClass, Currency, Operation, OperationId, Receipt, ResultCode, UserId};
use crate::role::PeerId;

/// An operation's own number. A change carries it as its reference, a look-up as its currency.
pub(super) type Tag = u32;

/// One operation of a client's request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) operation: Operation,
    pub(super) deadline_ms: u64,
    /// Copies at nodes that may still answer.
    pub(super) copy_count: u32,
    /// A copy will never be answered.
    pub(super) is_lost: bool,
    /// What nodes said of it, each with a number of its own.
    pub(super) said: Vec<(ResultCode, i64)>,
    pub(super) told: Option<ResultCode>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) by_tag: BTreeMap<Tag, Asked>,
    /// Tags of a request, in the order of its operations.
    pub(super) requests: BTreeMap<(PeerId, u64), Vec<Tag>>,
    last_tag: Tag,
}

pub(super) fn tag_of(operation: &Operation) -> Tag {
    if operation.is_change() {
        u32::try_from(operation.reference()).unwrap()
    } else {
        operation.currency()
    }
}

impl Ledger {
    /// A new change with a tag of its own.
    pub(super) fn change(&mut self, user: UserId, ms: u64) -> Operation {
        self.last_tag += 1;
        let tag = self.last_tag;
        let id = OperationId::from_parts(ms, u128::from(tag));
        let currency = Currency::new(1).unwrap();
        Operation::credit(id, user, currency, 5).with_note(0, u64::from(tag))
    }

    /// A new look-up with a tag of its own.
    pub(super) fn look_up(&mut self, user: UserId) -> Operation {
        self.last_tag += 1;
        Operation::get(user, Currency::new(self.last_tag).unwrap())
    }

    pub(super) fn ask(
        &mut self,
        client: PeerId,
        request: u64,
        deadline_ms: u64,
        operations: &[Operation],
    ) {
        let mut tags = Vec::new();
        for operation in operations {
            let tag = tag_of(operation);
            tags.push(tag);
            let asked = Asked {
                operation: *operation,
                deadline_ms,
                copy_count: 0,
                is_lost: false,
                said: Vec::new(),
                told: None,
            };
            self.by_tag.insert(tag, asked);
        }
        self.requests.insert((client, request), tags);
    }

    pub(super) fn get(&mut self, tag: Tag) -> &mut Asked {
        self.by_tag.get_mut(&tag).expect("an invented operation")
    }

    /// A client got this answer to a request of its own.
    pub(super) fn told(&mut self, client: PeerId, request: u64, receipt: &Receipt, now_ms: u64) {
        let tags = self.requests.get(&(client, request));
        let tags = tags.expect("an answer to what nobody asked");
        let tag = tags[usize::from(receipt.index)];
        let asked = self.get(tag);
        assert_eq!(asked.told.replace(receipt.code), None, "answered twice");
        let is_change = asked.operation.is_change();
        let is_under_way = asked.is_lost || 0 < asked.copy_count;
        match receipt.code.class() {
            CodeClass::Done | CodeClass::Refusal | CodeClass::Id | CodeClass::Malformed => {
                let said = (receipt.code, receipt.available);
                assert!(
                    asked.said.contains(&said),
                    "invented: {receipt:?} {asked:?}"
                );
            }
            CodeClass::NotNow => {
                let is_sure = !is_change || !is_under_way;
                assert!(is_sure, "may be applied: {receipt:?} {asked:?}");
            }
            CodeClass::Unknown => {
                assert!(is_change && is_under_way, "is known: {asked:?}");
                assert!(asked.deadline_ms <= now_ms, "too early: {asked:?}");
            }
        }
    }

    /// Nobody waits for the answers to this client any more.
    pub(super) fn forget(&mut self, client: PeerId) {
        self.requests.retain(|(of, _), _| *of != client);
    }

    /// Operations of clients that are there and have no answer.
    pub(super) fn open(&self) -> impl Iterator<Item = &Asked> {
        let tags = self.requests.values().flatten();
        tags.map(|tag| &self.by_tag[tag])
            .filter(|asked| asked.told.is_none())
    }
}
