//! What stands behind all fronts: every (user, id) has one outcome for ever, and no front forgets
//! a copy that it has, whether or not its connection still lives.

use std::collections::BTreeMap;

use bytes::BytesMut;

use crate::clock::Now;
use crate::limits::{BATCH_COUNT_MAX, DEADLINE_MS_MAX, FRAME_SIZE_MAX};
use crate::model::{
    Choices, ClusterId, CodeClass, Flags, Operation, Receipt, ResultCode, RingEpoch, UserId,
};
use crate::protocol::{Message, PeerRole, ReceiptsWriter, VERSION_MAX, Welcome};

/// A copy of a request at some front.
#[derive(Debug)]
pub(super) struct Copy {
    /// Number of the connection that it came by.
    pub(super) connection: u64,
    pub(super) request: u64,
    pub(super) operations: Vec<Operation>,
    /// Indexes without an answer, rising.
    pub(super) open: Vec<u16>,
    /// The front's deadline.
    pub(super) until_ns: u64,
}

#[derive(Default)]
pub(super) struct Cluster {
    pub(super) outcomes: BTreeMap<(u128, u128), ResultCode>,
    /// Ids in the order in which each user's were decided.
    pub(super) orders: BTreeMap<u128, Vec<u128>>,
    pub(super) copies: Vec<Copy>,
}

impl Cluster {
    fn decide(&mut self, operation: &Operation, code: ResultCode) -> ResultCode {
        let Some(id) = operation.id() else {
            return ResultCode::Ok;
        };
        let user = operation.user().get();
        if let Some(known) = self.outcomes.get(&(user, id.get())) {
            return *known;
        }
        let code = if operation.flags().has(Flags::BURN) {
            ResultCode::Cancelled
        } else {
            code
        };
        self.outcomes.insert((user, id.get()), code);
        self.orders.entry(user).or_default().push(id.get());
        code
    }

    /// A front goes on with a copy: the operations of one user in order, and not at all behind
    /// one that waits. Whose connection the receipts go to, and the receipts.
    pub(super) fn work(
        &mut self,
        at: usize,
        now: Now,
        choices: &mut Choices<'_>,
    ) -> (u64, u64, Vec<Receipt>) {
        let mut copy = self.copies.remove(at);
        let is_late = copy.until_ns <= now.tick.0;
        let mut held_back: BTreeMap<UserId, bool> = BTreeMap::new();
        let mut receipts = Vec::new();
        for index in std::mem::take(&mut copy.open) {
            let operation = copy.operations[usize::from(index)];
            let user = operation.user();
            let answer = match held_back.get(&user) {
                _ if is_late && operation.is_change() => Some(ResultCode::Unknown),
                _ if is_late => Some(ResultCode::Unavailable),
                Some(true) => Some(ResultCode::Busy),
                Some(false) => None,
                None => match choices.below(8) {
                    0 => Some(ResultCode::Busy),
                    1 => Some(ResultCode::IdInFuture),
                    2 => None,
                    3 => Some(self.decide(&operation, ResultCode::Insufficient)),
                    _ => Some(self.decide(&operation, ResultCode::Ok)),
                },
            };
            let Some(code) = answer else {
                held_back.insert(user, false);
                copy.open.push(index);
                continue;
            };
            if code.class() == CodeClass::NotNow {
                held_back.insert(user, true);
            }
            receipts.push(Receipt::bare(index, code));
        }
        let (connection, request) = (copy.connection, copy.request);
        if !copy.open.is_empty() {
            self.copies.push(copy);
        }
        (connection, request, receipts)
    }
}

pub(super) fn bytes_of(message: &Message<'_>, request: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.write_for(&mut bytes, request);
    bytes
}

pub(super) fn receipts_of(request: u64, receipts: &[Receipt]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(1));
    for receipt in receipts {
        writer.push(&mut bytes, receipt);
    }
    writer.finish(&mut bytes);
    bytes
}

pub(super) fn welcome(now: Now) -> Message<'static> {
    Message::Welcome(Welcome {
        version: VERSION_MAX,
        role: PeerRole::Front,
        cluster: ClusterId::new(77).unwrap(),
        time_ms: now.wall_ms,
        frame_size_max: FRAME_SIZE_MAX,
        batch_count_max: BATCH_COUNT_MAX,
        deadline_ms_max: DEADLINE_MS_MAX,
        frames_in_flight_max: 4,
    })
}
