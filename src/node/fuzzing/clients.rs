//! What clients asked, what they were told, and whether it can be true.

use std::collections::BTreeMap;

use super::world::{START_MS, World, coin, id_at, user};
use crate::model::{
    AccountSettings, Choices, CodeClass, Flags, Kind, Operation, OperationId, Receipt,
    ReceiptFlags, ResultCode,
};

const USER_COUNT: u8 = 4;

/// A request and what is known of the moment at which it came.
struct Asked {
    number: u64,
    operations: Vec<Operation>,
    told: Vec<bool>,
    /// Everything up to here was applied before.
    applied: u64,
    /// Beats and appends that had left before.
    sent: (usize, usize),
}

/// How far the copies are, in bytes of the log, and what the backup answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reached {
    pub(super) durable: u64,
    pub(super) acked: u64,
    /// Beats and appends that were answered.
    pub(super) answered: (usize, usize),
}

/// What the clients know.
#[derive(Default)]
pub(super) struct Clients {
    /// Operations by the number of their id: each number has one or two contents.
    pub(super) contents: Vec<[Operation; 2]>,
    open: Vec<Asked>,
    /// What an id was acknowledged as, whoever asked.
    decided: BTreeMap<OperationId, (Operation, Receipt)>,
}

impl Clients {
    /// A process died: what it did not answer is never answered.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// A few operations, many of them asked before.
    pub(super) fn send(&mut self, world: &mut World, choices: &mut Choices<'_>) {
        let count = 1 + choices.below(5);
        let operations: Vec<Operation> = (0..count).map(|_| self.operation(choices)).collect();
        let applied = world.disk.files(|files| files.end().offset);
        let sent = (world.backup.beats.len(), world.backup.appends.len());
        let number = world.send(&operations);
        self.open.push(Asked {
            number,
            told: vec![false; operations.len()],
            operations,
            applied,
            sent,
        });
    }

    fn operation(&mut self, choices: &mut Choices<'_>) -> Operation {
        let owner = user(1 + u128::from(choices.u8() % USER_COUNT));
        match choices.below(10) {
            0 => {
                let flags = choices.one_of(&[Flags::RECENT, Flags(0)]);
                return Operation::get(owner, coin()).with_flags(flags);
            }
            1 => return Operation::list(owner, 0, 1 + u32::from(choices.u8() % 4)),
            2 if !self.contents.is_empty() => {
                let operation = self.known(choices);
                let id = operation.id().unwrap();
                let flags = choices.one_of(&[Flags::BURN, Flags(0), Flags(0)]);
                return Operation::find(id, operation.user()).with_flags(flags);
            }
            3 | 4 if !self.contents.is_empty() => return self.known(choices),
            _ => (),
        }
        let id = id_at(START_MS, 1 + self.contents.len() as u128);
        let amount = 1 + choices.below(9);
        let credit = Operation::credit(id, owner, coin(), amount);
        let first = match choices.below(8) {
            0 => Operation::open(id, owner, coin(), AccountSettings::default()),
            1 => Operation::close(id, owner, coin()),
            2 => Operation::debit(id, owner, coin(), amount),
            3 => Operation::debit(id, owner, coin(), amount).with_flags(Flags::UP_TO),
            4 => credit,
            _ => credit.with_flags(Flags::OPEN_IF_MISSING),
        };
        let second = Operation::credit(id, owner, coin(), amount + 100);
        self.contents.push([first, second]);
        first
    }

    /// One that was asked before; now and then the other content of its id.
    fn known(&self, choices: &mut Choices<'_>) -> Operation {
        let count = self.contents.len() as u64;
        let back = choices.below(count.min(256));
        let at = usize::try_from(count - 1 - back).unwrap();
        self.contents[at][usize::from(choices.one_in(6))]
    }

    /// Takes every answer that has come. `reached` is how far things were before the turn in
    /// which it left the node.
    pub(super) fn listen(&mut self, world: &World, reached: Reached) {
        let mut open = std::mem::take(&mut self.open);
        open.retain_mut(|asked| {
            for receipt in world.answer(asked.number).receipts {
                let index = usize::from(receipt.index);
                if !std::mem::replace(&mut asked.told[index], true) {
                    let operation = asked.operations[index];
                    check_time(asked, &operation, &receipt, reached);
                    self.take(&operation, &receipt);
                }
            }
            let receipt_count = world.answer(asked.number).receipts.len();
            assert!(receipt_count <= asked.operations.len(), "answered twice");
            asked.told.contains(&false)
        });
        self.open = open;
    }

    fn take(&mut self, operation: &Operation, receipt: &Receipt) {
        let class = receipt.code.class();
        if matches!(class, CodeClass::NotNow) {
            return;
        }
        assert!(
            !matches!(class, CodeClass::Malformed | CodeClass::Unknown),
            "{receipt:?}"
        );
        let Some(id) = operation.id() else {
            return;
        };
        let decided = self.decided.get(&id);
        match receipt.code {
            ResultCode::NotSeen => {
                assert!(operation.kind() == Kind::Find && !operation.is_change());
                assert!(decided.is_none(), "{id} was acknowledged and is not seen");
            }
            ResultCode::IdReused => {
                let is_other = decided.is_none_or(|(first, _)| first != operation);
                assert!(is_other, "{id} is the same operation");
            }
            ResultCode::Cancelled => {
                // A burn, or what came after one.
                let first = decided.map(|(_, receipt)| receipt.code);
                let is_one = first.is_none_or(|code| code == ResultCode::Cancelled);
                assert!(is_one, "{id} was something before it was cancelled");
                self.decided.entry(id).or_insert((*operation, *receipt));
            }
            _ => {
                assert!(
                    matches!(class, CodeClass::Done | CodeClass::Refusal),
                    "{receipt:?}"
                );
                self.take_outcome(operation, id, receipt);
            }
        }
    }

    /// Every receipt of one id is the same, whoever asks for it.
    fn take_outcome(&mut self, operation: &Operation, id: OperationId, receipt: &Receipt) {
        let is_find = operation.kind() == Kind::Find;
        if let Some((first, known)) = self.decided.get_mut(&id) {
            let of = |receipt: &Receipt| {
                let Receipt {
                    code,
                    available,
                    held,
                    version,
                    place,
                    amount,
                    ..
                } = *receipt;
                (code, available, held, version, place, amount)
            };
            assert_eq!(of(known), of(receipt), "{id}");
            if first.kind() == Kind::Find {
                *first = *operation;
            }
            assert!(is_find || *first == *operation, "{id} has two contents");
            assert!(
                receipt.flags.has(ReceiptFlags::REPLAYED) || is_find,
                "{id} twice"
            );
        } else {
            self.decided.insert(id, (*operation, *receipt));
        }
    }

    /// Asks for every id again: what was acknowledged is known, and the balances are the sum of
    /// what became of each id.
    pub(super) fn settle(&mut self, world: &mut World) {
        let mut sums: BTreeMap<u128, i64> = BTreeMap::new();
        for contents in self.contents.clone() {
            let mut receipt = world.one(contents[0]);
            let mut effect = contents[0];
            if receipt.code == ResultCode::IdReused {
                effect = contents[1];
                receipt = world.one(contents[1]);
            }
            assert!(
                receipt.code != ResultCode::IdReused,
                "an id without a content"
            );
            let was = self.decided.contains_key(&effect.id().unwrap());
            let is_again = receipt.flags.has(ReceiptFlags::REPLAYED);
            let is_burnt = receipt.code == ResultCode::Cancelled;
            assert!(!was || is_again || is_burnt, "an acknowledged id is lost");
            self.take(&effect, &receipt);
            let moved = receipt.amount.cast_signed();
            let moved = match (effect.kind(), receipt.code) {
                (Kind::Credit, ResultCode::Ok) => moved,
                (Kind::Debit, ResultCode::Ok) => -moved,
                _ => 0,
            };
            *sums.entry(effect.user().get()).or_default() += moved;
        }
        for (owner, sum) in sums {
            let receipt = world.one(Operation::get(user(owner), coin()));
            match receipt.code {
                ResultCode::Ok => assert_eq!(receipt.available, sum, "user {owner}"),
                // Closed, so it was empty.
                code => assert_eq!((code, sum), (ResultCode::NotFound, 0)),
            }
        }
    }
}

/// An answer that depends on state leaves once what was applied before it is committed; a
/// look-up that is exact, after a round trip that began after it had come.
fn check_time(asked: &Asked, operation: &Operation, receipt: &Receipt, reached: Reached) {
    let class = receipt.code.class();
    if matches!(class, CodeClass::NotNow | CodeClass::Malformed) {
        return;
    }
    let committed = reached.durable.min(reached.acked);
    if receipt.place.0 != 0 {
        assert!(
            receipt.place.offset() < committed,
            "{receipt:?} {reached:?}"
        );
    }
    let is_recent = operation.flags().has(Flags::RECENT);
    if !is_recent {
        assert!(asked.applied <= committed, "{receipt:?} {reached:?}");
    }
    let is_look_up = !operation.is_change() && operation.kind() != Kind::Find;
    if is_look_up && !is_recent {
        let (beats, appends) = asked.sent;
        let is_confirmed = beats < reached.answered.0 || appends < reached.answered.1;
        assert!(
            is_confirmed,
            "{operation:?} left without a round trip: {reached:?}"
        );
    }
}
