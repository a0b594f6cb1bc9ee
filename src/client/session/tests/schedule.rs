//! Random schedules: fronts that lose, delay, repeat and refuse at random, and a tiny ledger that
//! knows each (user, id). What the session reported is compared with what the ledger did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::model::{CodeClass, Flags};

const SEED_COUNT: u64 = 150;
const USER_COUNT: u64 = 6;
const BATCH_COUNT: usize = 60;

/// What is drawn, and how often.
struct Odds(Random);

impl Odds {
    fn one_in(&mut self, odds: u64) -> bool {
        self.0.one_in(odds)
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.0.below(count as u64)).unwrap()
    }
}

/// The cluster behind all fronts: every (user, id) has one outcome for ever.
#[derive(Default)]
struct Ledger {
    outcomes: BTreeMap<(u128, u128), ResultCode>,
    /// Ids in the order in which each user's were decided.
    orders: BTreeMap<u128, Vec<u128>>,
    /// Sum of what was really credited.
    credited: u64,
}

impl Ledger {
    fn decide(&mut self, operation: &Operation, odds: &mut Odds) -> ResultCode {
        let user = operation.user().get();
        let Some(id) = operation.id() else {
            return ResultCode::Ok;
        };
        if let Some(code) = self.outcomes.get(&(user, id.get())) {
            return *code;
        }
        let code = if operation.flags().has(Flags::BURN) {
            ResultCode::Cancelled
        } else if odds.one_in(8) {
            ResultCode::Insufficient
        } else {
            self.credited += operation.amount();
            ResultCode::Ok
        };
        self.outcomes.insert((user, id.get()), code);
        self.orders.entry(user).or_default().push(id.get());
        code
    }
}

/// A copy of a request that some front works on, whether or not its connection still lives.
struct Copy {
    connection: u64,
    request: Request,
    /// Indexes that are still to be answered.
    open: Vec<usize>,
    until: Tick,
}

/// The connection that the session has now.
struct Connection {
    number: u64,
    inbox: Vec<u8>,
    is_greeted: bool,
    /// It takes everything and says nothing more.
    is_hung: bool,
}

struct World {
    bench: Bench,
    odds: Odds,
    ledger: Ledger,
    copies: Vec<Copy>,
    connection: Option<Connection>,
    connection_last: u64,
    /// What the client handed in, by user, and what it was told in the end.
    asked: BTreeMap<u128, Vec<u128>>,
    reported: BTreeMap<(u128, u128), ResultCode>,
    was_unknown: BTreeMap<(u128, u128), bool>,
    tickets: VecDeque<Ticket>,
    /// Nothing goes wrong any more.
    is_calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let options = SessionOptions {
            address_count: 3,
            cluster: None,
            deadline_ms: 800,
            frames_in_flight_max: 4,
            incarnation: Incarnation::new(9).unwrap(),
        };
        Self {
            bench: Bench {
                session: Session::new(&options, Random::new(seed)),
                now: at_ms(0),
            },
            odds: Odds(Random::new(seed ^ 0xabcd)),
            ledger: Ledger::default(),
            copies: Vec::new(),
            connection: None,
            connection_last: 0,
            asked: BTreeMap::new(),
            reported: BTreeMap::new(),
            was_unknown: BTreeMap::new(),
            tickets: VecDeque::new(),
            is_calm: false,
        }
    }

    fn goes_wrong(&mut self, odds: u64) -> bool {
        !self.is_calm && self.odds.one_in(odds)
    }

    fn submit(&mut self) {
        let count = 1 + self.odds.index(12);
        let operations: Vec<_> = (0..count).map(|_| self.operation()).collect();
        self.tickets.push_back(self.bench.submit(&operations));
    }

    fn operation(&mut self) -> Operation {
        let owner = user(1 + u128::from(self.odds.0.below(USER_COUNT)));
        if self.odds.one_in(6) {
            return Operation::get(owner, coins());
        }
        let id = self.bench.session.new_id(self.bench.now);
        self.asked.entry(owner.get()).or_default().push(id.get());
        Operation::credit(id, owner, coins(), 1 + self.odds.0.below(100))
    }

    /// One turn of everything.
    fn step(&mut self) {
        let pause_ms = self.odds.0.below(12);
        self.bench.pass(pause_ms);
        self.act();
        self.send();
        self.copies_work();
        self.links_work();
        self.take_answers();
    }

    fn act(&mut self) {
        while let Some(action) = self.bench.session.poll() {
            match action {
                Action::Close => self.connection = None,
                Action::Connect { .. } if self.goes_wrong(4) => {
                    let text = "connection refused".to_owned();
                    self.bench.session.connect_failed(self.bench.now, text);
                }
                Action::Connect { .. } => {
                    assert!(self.connection.is_none());
                    self.connection_last += 1;
                    self.bench.session.connected(self.bench.now);
                    self.connection = Some(Connection {
                        number: self.connection_last,
                        inbox: Vec::new(),
                        is_greeted: false,
                        is_hung: self.goes_wrong(12),
                    });
                }
            }
        }
    }

    /// Some of the bytes reach the front, which reads the frames that are whole.
    fn send(&mut self) {
        let unsent = self.bench.session.unsent().to_vec();
        let Some(connection) = &mut self.connection else {
            assert!(unsent.is_empty());
            return;
        };
        let whole = self.is_calm || self.odds.one_in(2);
        let size = if whole {
            unsent.len()
        } else {
            self.odds.index(unsent.len() + 1)
        };
        connection.inbox.extend_from_slice(&unsent[..size]);
        self.bench.session.sent(self.bench.now, size);
        let inbox = std::mem::take(&mut connection.inbox);
        let (number, now) = (connection.number, self.bench.now);
        let mut replies = Vec::new();
        let mut is_greeted = connection.is_greeted;
        let taken = each_frame(&inbox, |frame| {
            let message = Message::read(frame).unwrap();
            if matches!(message, Message::Hello(_)) {
                is_greeted = true;
                replies.push(bytes_of(&Message::Welcome(welcome(now)), 0));
            } else if matches!(message, Message::Ping) {
                let time_ms = now.wall_ms + AHEAD_MS;
                replies.push(bytes_of(&Message::Pong { time_ms }, 0));
            } else {
                assert!(is_greeted && matches!(message, Message::Request { .. }));
            }
            if let Some(request) = request_of(frame) {
                self.copies.push(Copy {
                    connection: number,
                    open: (0..request.operations.len()).collect(),
                    until: now.tick.plus_ms(u64::from(request.deadline_ms)),
                    request,
                });
            }
        });
        connection.is_greeted = is_greeted;
        connection.inbox = inbox[taken..].to_vec();
        if !connection.is_hung {
            for reply in replies {
                self.bench.receive(&reply);
            }
        }
    }

    /// Every front goes on with the copies it has.
    fn copies_work(&mut self) {
        for mut copy in std::mem::take(&mut self.copies) {
            if !self.is_calm && self.odds.one_in(2) {
                self.copies.push(copy);
                continue;
            }
            let mut receipts = self.copy_works(&mut copy);
            // Receipts may come in any order and in several frames.
            for at in 0..receipts.len() {
                let other = self.odds.index(receipts.len());
                receipts.swap(at, other);
            }
            let cut = self.odds.index(receipts.len() + 1);
            for part in [&receipts[..cut], &receipts[cut..]] {
                if !part.is_empty() {
                    self.deliver(copy.connection, copy.request.number, part);
                }
            }
            if !copy.open.is_empty() {
                self.copies.push(copy);
            }
        }
    }

    /// Decides some operations of a copy: those of one user in order, users in any order.
    fn copy_works(&mut self, copy: &mut Copy) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        let is_late = copy.until <= self.bench.now.tick;
        let mut blocked = Vec::new();
        for index in std::mem::take(&mut copy.open) {
            let operation = copy.request.operations[index];
            let owner = operation.user();
            let number = u16::try_from(index).unwrap();
            if is_late {
                // The front's deadline: it cannot tell.
                let code = if operation.is_change() {
                    ResultCode::Unknown
                } else {
                    ResultCode::Unavailable
                };
                receipts.push(Receipt::bare(number, code));
            } else if blocked.contains(&(owner, true)) {
                receipts.push(Receipt::bare(number, ResultCode::Busy));
            } else if blocked.contains(&(owner, false)) {
                copy.open.push(index);
            } else if self.goes_wrong(6) {
                blocked.push((owner, true));
                receipts.push(Receipt::bare(number, ResultCode::Busy));
            } else if self.goes_wrong(4) {
                blocked.push((owner, false));
                copy.open.push(index);
            } else {
                let code = self.ledger.decide(&operation, &mut self.odds);
                receipts.push(Receipt::bare(number, code));
                // A front that sends it to the node again, its answer having been lost.
                assert_eq!(self.ledger.decide(&operation, &mut self.odds), code);
            }
        }
        receipts
    }

    fn deliver(&mut self, connection: u64, request: u64, receipts: &[Receipt]) {
        let living = self.connection.as_ref();
        if living.is_some_and(|c| c.number == connection && !c.is_hung) {
            self.bench.receive(&receipts_of(request, receipts));
        }
    }

    fn links_work(&mut self) {
        if self.connection.is_none() {
            return;
        }
        if self.goes_wrong(60) {
            self.connection = None;
            self.bench.lose();
        } else if self.goes_wrong(150) {
            let is_open = self.bench.session.is_ready();
            let connection = self.connection.as_ref();
            if is_open && connection.is_some_and(|connection| !connection.is_hung) {
                self.bench.receive(&bytes_of(&Message::Goaway, 0));
            }
        } else if self.goes_wrong(200)
            && let Some(connection) = &mut self.connection
        {
            connection.is_hung = true;
        }
    }

    fn take_answers(&mut self) {
        while let Some(ticket) = self.bench.session.next_finished() {
            let answers = self.bench.session.answers(ticket).unwrap();
            let mut again = Vec::new();
            for (operation, receipt) in answers.operations().iter().zip(answers.receipts()) {
                let code = receipt.code;
                let Some(id) = operation.id() else {
                    assert!(matches!(code.class(), CodeClass::Done | CodeClass::NotNow));
                    continue;
                };
                let key = (operation.user().get(), id.get());
                if code == ResultCode::Unknown {
                    self.was_unknown.insert(key, true);
                    // Some callers ask again with the same id, some burn it, some give up.
                    match self.odds.0.below(3) {
                        0 => again.push(*operation),
                        1 => again
                            .push(Operation::find(id, operation.user()).with_flags(Flags::BURN)),
                        _ => (),
                    }
                }
                self.reported.insert(key, code);
            }
            self.bench.session.forget(ticket);
            self.tickets.retain(|open| *open != ticket);
            if !again.is_empty() {
                self.tickets.push_back(self.bench.submit(&again));
            }
        }
    }

    fn check(&self, seed: u64) {
        let mut counts = BTreeMap::new();
        for (user, ids) in &self.asked {
            for id in ids {
                let key = (*user, *id);
                let reported = self.reported[&key];
                let decided = self.ledger.outcomes.get(&key).copied();
                *counts.entry(reported).or_insert(0) += 1;
                match reported.class() {
                    CodeClass::Done | CodeClass::Refusal => {
                        assert_eq!(decided, Some(reported), "seed {seed}: {key:?}");
                    }
                    CodeClass::NotNow => {
                        // Asked again after "unknown", only the last try is known not to count.
                        let was_unknown = self.was_unknown.contains_key(&key);
                        assert!(decided.is_none() || was_unknown, "seed {seed}: {key:?}");
                    }
                    CodeClass::Unknown => (),
                    CodeClass::Id | CodeClass::Malformed => panic!("seed {seed}: {reported}"),
                }
            }
            self.check_order(seed, *user, ids);
        }
        // The ledger saw no id that was not handed in, and no id was handed in twice.
        let asked: BTreeSet<_> = self
            .asked
            .iter()
            .flat_map(|(user, ids)| ids.iter().map(move |id| (*user, *id)))
            .collect();
        assert_eq!(
            asked.len(),
            self.asked.values().map(Vec::len).sum::<usize>()
        );
        assert!(self.ledger.outcomes.keys().all(|key| asked.contains(key)));
        assert_eq!(self.bench.session.unanswered_count(), 0);
        assert!(0 < counts[&ResultCode::Ok] && 0 < counts[&ResultCode::Insufficient]);
    }

    /// What was never "unknown" was decided in the order in which it was handed in.
    fn check_order(&self, seed: u64, user: u128, asked: &[u128]) {
        let is_sure = |id: &&u128| {
            let key = (user, **id);
            !self.was_unknown.contains_key(&key) && self.ledger.outcomes.contains_key(&key)
        };
        let asked: Vec<_> = asked.iter().filter(is_sure).collect();
        let order = &self.ledger.orders[&user];
        let decided: Vec<_> = order.iter().filter(is_sure).collect();
        assert_eq!(asked, decided, "seed {seed}: order of user {user}");
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let mut submitted = 0;
    while submitted < BATCH_COUNT || !world.tickets.is_empty() {
        if submitted < BATCH_COUNT && world.odds.one_in(5) {
            world.submit();
            submitted += 1;
        }
        world.step();
    }
    // Copies that still lie in some front are worked on to their end: none may do harm.
    world.is_calm = true;
    while !world.copies.is_empty() {
        world.step();
    }
    world
}

#[test]
fn what_is_reported_is_what_happened() {
    let mut codes = BTreeMap::new();
    for seed in 0..SEED_COUNT {
        let world = run(seed);
        world.check(seed);
        for code in world.reported.values() {
            *codes.entry(code.name()).or_insert(0) += 1;
        }
    }
    // The schedules are worth something only if they reach every kind of ending.
    println!("{codes:?}");
    for name in ["ok", "insufficient", "unknown", "busy", "cancelled"] {
        assert!(
            codes.get(name).is_some_and(|count| 20 < *count),
            "{codes:?}"
        );
    }
}

#[test]
fn one_seed_gives_one_run() {
    let (first, second) = (run(7), run(7));
    assert_eq!(first.reported, second.reported);
    assert_eq!(first.ledger.credited, second.ledger.credited);
}
