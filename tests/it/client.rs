//! The blocking client over real sockets, against fronts that are threads of this test.
//!
//! The fronts share one tiny ledger and misbehave as the test says. The real cluster has tests of
//! its own.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "whatever goes wrong in a front of this test is to end the test"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use counterfoil::client::{
    AccountSettings, Client, ClientError, ClusterId, Currency, Flags, Found, Kind, Operation,
    OperationId, Options, Receipt, ReceiptFlags, ResultCode, Row, UserId, resolve,
};
use counterfoil::limits;
use counterfoil::model::{LogNumber, Place, RingEpoch};
use counterfoil::protocol::{
    AuditPart, AuditRow, Frame, Message, PeerRole, ReceiptsWriter, VERSION_MAX, Welcome, split,
    write_audit, write_rows,
};

/// What a front does with the next request instead of serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// Applies it and closes the connection without an answer.
    LoseAnswer,
    /// Closes the connection without applying it.
    LoseRequest,
    /// Serves it, then closes the connection.
    EndAfter,
    /// Answers all of it "busy".
    Busy,
    /// Says nothing to it, now or later.
    Ignore,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    available: i64,
    version: u64,
    settings: AccountSettings,
}

/// One ledger behind all fronts of a test.
#[derive(Default)]
struct World {
    accounts: BTreeMap<(u128, u32), Account>,
    /// Operation and first receipt of each (user, id).
    seen: BTreeMap<(u128, u128), (Operation, Receipt)>,
    applied_count: u64,
    mishaps: VecDeque<Mishap>,
}

impl World {
    fn answer(&mut self, index: u16, operation: &Operation) -> (Receipt, Vec<Row>) {
        match (operation.kind(), operation.id()) {
            (Kind::Get, _) => {
                let key = (operation.user().get(), operation.currency());
                let found = self.accounts.get(&key);
                let code = found.map_or(ResultCode::NotFound, |_| ResultCode::Ok);
                (self.receipt(index, code, key), Vec::new())
            }
            (Kind::List, _) => self.list(index, operation),
            (Kind::Find, Some(id)) => (self.find(index, operation, id), Vec::new()),
            (_, Some(id)) => (self.change(index, operation, id), Vec::new()),
            (_, None) => panic!("{operation:?}"),
        }
    }

    fn change(&mut self, index: u16, operation: &Operation, id: OperationId) -> Receipt {
        let key = (operation.user().get(), id.get());
        if let Some((first, receipt)) = self.seen.get(&key) {
            if first.kind() == Kind::Find {
                return Receipt::bare(index, ResultCode::Cancelled);
            }
            if first != operation {
                return Receipt::bare(index, ResultCode::IdReused);
            }
            let flags = receipt.flags.with(ReceiptFlags::REPLAYED);
            return Receipt {
                index,
                flags,
                ..*receipt
            };
        }
        let code = self.apply(operation);
        let account = (operation.user().get(), operation.currency());
        let mut receipt = self.receipt(index, code, account);
        if code == ResultCode::Ok {
            receipt.amount = operation.amount();
        }
        self.seen.insert(key, (*operation, receipt));
        receipt
    }

    fn apply(&mut self, operation: &Operation) -> ResultCode {
        let key = (operation.user().get(), operation.currency());
        let amount = i64::try_from(operation.amount()).unwrap();
        self.applied_count += 1;
        let fresh = Account {
            available: 0,
            version: self.applied_count,
            settings: AccountSettings::default(),
        };
        if operation.kind() == Kind::Open {
            if self.accounts.contains_key(&key) {
                return ResultCode::Exists;
            }
            self.accounts.insert(key, fresh);
            return ResultCode::Ok;
        }
        if operation.flags().has(Flags::OPEN_IF_MISSING) {
            self.accounts.entry(key).or_insert(fresh);
        }
        let Some(account) = self.accounts.get_mut(&key) else {
            return ResultCode::NotFound;
        };
        if operation
            .expected_version()
            .is_some_and(|version| version != account.version)
        {
            return ResultCode::VersionMismatch;
        }
        match operation.kind() {
            Kind::Close if account.available != 0 => return ResultCode::NotEmpty,
            Kind::Close => {
                self.accounts.remove(&key);
                return ResultCode::Ok;
            }
            Kind::Configure => account.settings = operation.settings(),
            Kind::Credit => account.available += amount,
            Kind::Debit if account.available < amount => return ResultCode::Insufficient,
            Kind::Debit => account.available -= amount,
            other => panic!("{other:?}"),
        }
        account.version += 1;
        ResultCode::Ok
    }

    fn receipt(&self, index: u16, code: ResultCode, account: (u128, u32)) -> Receipt {
        let account = self.accounts.get(&account);
        Receipt {
            available: account.map_or(0, |account| account.available),
            version: account.map_or(0, |account| account.version),
            place: Place::new(LogNumber::new(1).unwrap(), 128 * self.applied_count),
            ..Receipt::bare(index, code)
        }
    }

    fn find(&mut self, index: u16, operation: &Operation, id: OperationId) -> Receipt {
        let key = (operation.user().get(), id.get());
        match self.seen.get(&key) {
            Some((first, receipt)) => {
                let cancelled = Receipt::bare(index, ResultCode::Cancelled);
                let is_burned = first.kind() == Kind::Find;
                let receipt = if is_burned { cancelled } else { *receipt };
                let flags = receipt.flags.with(ReceiptFlags::REPLAYED);
                Receipt {
                    index,
                    flags,
                    ..receipt
                }
            }
            None if operation.flags().has(Flags::BURN) => {
                let receipt = Receipt::bare(index, ResultCode::Cancelled);
                self.seen.insert(key, (*operation, receipt));
                receipt
            }
            None => Receipt::bare(index, ResultCode::NotSeen),
        }
    }

    fn list(&self, index: u16, operation: &Operation) -> (Receipt, Vec<Row>) {
        let user = operation.user().get();
        let count = usize::try_from(operation.amount()).unwrap();
        let range = (user, operation.currency())..=(user, u32::MAX);
        let mut found = self.accounts.range(range);
        let rows: Vec<_> = found
            .by_ref()
            .take(count)
            .map(|((_, currency), account)| Row {
                currency: *currency,
                flags: u32::from(account.settings.frozen),
                available: account.available,
                held: 0,
                outgoing: 0,
                floor: account.settings.floor,
                cap: account.settings.cap,
                version: account.version,
                place: Place(0),
            })
            .collect();
        let has_any = self.accounts.range((user, 0)..=(user, u32::MAX)).next();
        let code = has_any.map_or(ResultCode::NotFound, |_| ResultCode::Ok);
        let mut receipt = Receipt::bare(index, code);
        if found.next().is_some() {
            receipt.flags = ReceiptFlags::MORE;
        }
        (receipt, rows)
    }
}

/// What all fronts of a test share.
struct Shared {
    world: Mutex<World>,
    cluster: ClusterId,
    time_ms: AtomicU64,
    must_stop: AtomicBool,
}

struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

fn cluster(number: u128) -> ClusterId {
    ClusterId::new(number).unwrap()
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        world: Mutex::new(World::default()),
        cluster: cluster(77),
        time_ms: AtomicU64::new(1_900_000_000_000),
        must_stop: AtomicBool::new(false),
    })
}

impl Front {
    fn start(shared: &Arc<Shared>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(shared);
        let state = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut open: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                if state.must_stop.load(Ordering::SeqCst) {
                    break;
                }
                let (handle, shared) = (stream.try_clone().unwrap(), Arc::clone(&state));
                let serving = std::thread::spawn(move || serve(stream, &shared));
                open.push((handle, serving));
            }
            for (stream, serving) in open {
                // Closed already by either side is just as well.
                drop(stream.shutdown(Shutdown::Both));
                serving.join().unwrap();
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.shared.world.lock().unwrap())
    }

    fn mishaps(&self, mishaps: &[Mishap]) {
        self.world(|world| world.mishaps.extend(mishaps));
    }

    fn client(&self) -> Client {
        connect(&[self.address], Duration::from_secs(5))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.must_stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn connect(addresses: &[SocketAddr], deadline: Duration) -> Client {
    let options = Options {
        deadline,
        ..Options::default()
    };
    Client::connect_to(addresses, &options).unwrap()
}

/// One connection, until it ends.
fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut inbox = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        // An error is the end as well: the client is gone, or the test is.
        let size = stream.read(&mut chunk).unwrap_or(0);
        if size == 0 {
            return;
        }
        inbox.extend_from_slice(&chunk[..size]);
        let mut taken = 0;
        while let Some((frame, size)) = split(&inbox[taken..], limits::FRAME_SIZE_MAX).unwrap() {
            taken += size;
            if !serve_frame(&mut stream, shared, &frame) {
                drop(stream.shutdown(Shutdown::Both));
                return;
            }
        }
        inbox.drain(..taken);
    }
}

/// False: the connection is to be closed.
fn serve_frame(stream: &mut TcpStream, shared: &Shared, frame: &Frame<'_>) -> bool {
    let request = frame.header.request;
    let mut out = BytesMut::new();
    let mut goes_on = true;
    match Message::read(frame).unwrap() {
        Message::Hello(hello) => {
            assert_eq!(hello.role, PeerRole::Client);
            Message::Welcome(Welcome {
                version: VERSION_MAX,
                role: PeerRole::Front,
                cluster: shared.cluster,
                time_ms: shared.time_ms.load(Ordering::SeqCst),
                frame_size_max: limits::FRAME_SIZE_MAX,
                batch_count_max: limits::BATCH_COUNT_MAX,
                deadline_ms_max: limits::DEADLINE_MS_MAX,
                frames_in_flight_max: limits::CLIENT_FRAMES_IN_FLIGHT_MAX,
            })
            .write(&mut out);
        }
        Message::Ping => Message::Pong { time_ms: 0 }.write_for(&mut out, request),
        Message::StatusAsk => {
            Message::StatusTold {
                json: r#"{"nodes":3}"#,
            }
            .write_for(&mut out, request);
        }
        Message::AuditAsk => {
            let row = |currency| AuditRow {
                currency,
                ..AuditRow::default()
            };
            write_audit(&mut out, request, &[row(1), row(2)], AuditPart::More);
            write_audit(&mut out, request, &[row(3)], AuditPart::Last);
        }
        Message::Request { operations, .. } => {
            let operations: Vec<_> = operations.iter().map(Result::unwrap).collect();
            goes_on = serve_request(shared, request, &operations, &mut out);
        }
        other => panic!("{other:?}"),
    }
    stream.write_all(&out).is_ok() && goes_on
}

fn serve_request(
    shared: &Shared,
    request: u64,
    operations: &[Operation],
    out: &mut BytesMut,
) -> bool {
    let mut world = shared.world.lock().unwrap();
    let mishap = world.mishaps.pop_front();
    if let Some(Mishap::LoseRequest | Mishap::Ignore) = mishap {
        return mishap == Some(Mishap::Ignore);
    }
    let mut receipts = Vec::new();
    for (index, operation) in (0..).zip(operations) {
        if mishap == Some(Mishap::Busy) {
            receipts.push(Receipt::bare(index, ResultCode::Busy));
            continue;
        }
        let (receipt, rows) = world.answer(index, operation);
        receipts.push(receipt);
        if !rows.is_empty() {
            write_rows(out, request, index, &rows);
        }
    }
    if mishap == Some(Mishap::LoseAnswer) {
        out.clear();
        return false;
    }
    let mut writer = ReceiptsWriter::begin(out, request, RingEpoch(1));
    for receipt in &receipts {
        writer.push(out, receipt);
    }
    writer.finish(out);
    mishap != Some(Mishap::EndAfter)
}

fn user(number: u128) -> UserId {
    UserId::new(number).unwrap()
}

fn coins() -> Currency {
    Currency::new(1).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> &'static str {
    result.unwrap_err().name()
}

#[test]
fn every_call_gives_its_result() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let settings = AccountSettings::default();
    assert_eq!(client.cluster_id(), cluster(77));
    client.open(user(1), coins(), settings).unwrap();
    assert_eq!(code(client.open(user(1), coins(), settings)), "exists");
    assert_eq!(client.credit(user(1), coins(), 70).unwrap().available, 70);
    assert_eq!(client.debit(user(1), coins(), 30).unwrap().available, 40);
    let error = client.debit(user(1), coins(), 41).unwrap_err();
    let ClientError::Refused { receipt, id, .. } = error else {
        panic!("{error:?}");
    };
    assert!(id.is_some());
    assert_eq!(receipt.available, 40);
    assert_eq!(code(client.credit(user(1), coins(), 0)), "bad_amount");
    let shown = client.get(user(1), coins()).unwrap();
    assert_eq!(shown.available, 40);
    assert_eq!(code(client.get(user(2), coins())), "not_found");
    let configure = client.configure(user(1), coins(), settings, shown.version + 1);
    assert_eq!(code(configure), "version_mismatch");
    client
        .configure(user(1), coins(), settings, shown.version)
        .unwrap();
    assert_eq!(code(client.close(user(1), coins())), "not_empty");
    client.debit(user(1), coins(), 40).unwrap();
    client.close(user(1), coins()).unwrap();
    assert_eq!(code(client.get(user(1), coins())), "not_found");
    assert_eq!(client.status().unwrap(), r#"{"nodes":3}"#);
    let audit = client.audit().unwrap();
    let currencies: Vec<_> = audit.iter().map(|row| row.currency).collect();
    assert_eq!(currencies, [1, 2, 3]);
}

#[test]
fn an_id_can_be_found_and_cancelled() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let (done, refused, unsent) = (client.new_id(), client.new_id(), client.new_id());
    let credit = Operation::credit(done, user(1), coins(), 5).with_flags(Flags::OPEN_IF_MISSING);
    let receipt = client.execute(&credit).unwrap();
    let found = client.find(user(1), done).unwrap();
    assert!(
        matches!(found, Found::Answered(again) if again.place == receipt.place),
        "{found:?}"
    );
    let debit = Operation::debit(refused, user(1), coins(), 6);
    assert_eq!(code(client.execute(&debit)), "insufficient");
    let found = client.cancel(user(1), refused).unwrap();
    assert!(
        matches!(found, Found::Answered(again) if again.code == ResultCode::Insufficient),
        "{found:?}"
    );
    let late = Operation::credit(unsent, user(1), coins(), 5);
    assert_eq!(client.find(user(1), unsent), Ok(Found::NotSeen));
    assert_eq!(client.cancel(user(1), unsent), Ok(Found::Cancelled));
    assert_eq!(client.find(user(1), unsent), Ok(Found::Cancelled));
    assert_eq!(code(client.execute(&late)), "cancelled");
    let replayed = client.execute(&credit).unwrap();
    assert!(replayed.flags.has(ReceiptFlags::REPLAYED));
    let other = Operation::credit(done, user(1), coins(), 6);
    assert_eq!(code(client.execute(&other)), "id_reused");
}

#[test]
fn a_listing_has_all_pages() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let opens: Vec<_> = (1..=600)
        .map(|currency| {
            let currency = Currency::new(currency).unwrap();
            let settings = AccountSettings::default();
            Operation::open(client.new_id(), user(1), currency, settings)
        })
        .collect();
    for answer in client.batch(&opens).unwrap() {
        answer.result().unwrap();
    }
    let currencies: Vec<_> = client
        .list(user(1))
        .unwrap()
        .iter()
        .map(|r| r.currency)
        .collect();
    assert_eq!(currencies, (1..=600).collect::<Vec<_>>());
    assert_eq!(client.list(user(2)).unwrap_err().name(), "not_found");
    let lists = [(1, 599), (2, 599), (1, 601)];
    let lists = lists.map(|(number, from)| Operation::list(user(number), from, 256));
    let answers = client.batch(&lists).unwrap();
    assert_eq!(answers[0].rows.len(), 2);
    assert_eq!((answers[1].rows.len(), answers[1].id), (0, None));
    assert_eq!(answers[1].receipt.code, ResultCode::NotFound);
    assert_eq!(answers[2].receipt.code, ResultCode::Ok);
    assert!(answers[2].rows.is_empty());
}

#[test]
fn ids_rise_and_carry_the_time_of_the_cluster() {
    let shared = shared();
    let front = Front::start(&shared);
    let time_ms = shared.time_ms.load(Ordering::SeqCst);
    let mut client = front.client();
    let mut last = client.new_id();
    let late_ms = last.time_ms() - time_ms;
    assert!(late_ms < 10_000, "{late_ms} ms behind the welcome");
    assert!(time_ms <= client.server_time_ms());
    for _ in 0..10_000 {
        let id = client.new_id();
        assert!(last < id);
        last = id;
    }
}

#[test]
fn a_change_survives_mishaps_and_is_applied_once() {
    for mishaps in [
        &[Mishap::LoseAnswer][..],
        &[Mishap::LoseRequest],
        &[Mishap::EndAfter],
        &[Mishap::Busy, Mishap::Busy, Mishap::Busy],
        &[Mishap::LoseAnswer, Mishap::Busy, Mishap::LoseAnswer],
    ] {
        let shared = shared();
        let fronts = [Front::start(&shared), Front::start(&shared)];
        let addresses = fronts.each_ref().map(|front| front.address);
        let mut client = connect(&addresses, Duration::from_secs(5));
        client
            .open(user(1), coins(), AccountSettings::default())
            .unwrap();
        fronts[0].mishaps(mishaps);
        assert_eq!(client.credit(user(1), coins(), 5).unwrap().available, 5);
        assert_eq!(client.credit(user(1), coins(), 5).unwrap().available, 10);
        let applied_count = fronts[0].world(|world| world.applied_count);
        assert_eq!(applied_count, 3, "{mishaps:?}");
    }
}

#[test]
fn a_front_that_dies_is_replaced_by_another() {
    let shared_one = shared();
    let first = Front::start(&shared_one);
    let mut client;
    {
        // Whichever is dialled first, one of the two is dead.
        let dead = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        client = connect(&[dead, first.address], Duration::from_secs(5));
        client
            .open(user(1), coins(), AccountSettings::default())
            .unwrap();
    }
    first.mishaps(&[Mishap::LoseAnswer]);
    assert_eq!(client.credit(user(1), coins(), 5).unwrap().available, 5);
}

#[test]
fn no_answer_is_unknown_at_the_deadline_and_can_be_settled() {
    let front = Front::start(&shared());
    let mut client = connect(&[front.address], Duration::from_millis(200));
    client
        .open(user(1), coins(), AccountSettings::default())
        .unwrap();
    front.mishaps(&[Mishap::Ignore]);
    let error = client.credit(user(1), coins(), 5).unwrap_err();
    let ClientError::Unknown { id } = error else {
        panic!("{error:?}");
    };
    assert!(error.may_retry());
    assert_eq!(client.cancel(user(1), id), Ok(Found::Cancelled));
    let again = Operation::credit(id, user(1), coins(), 5);
    assert_eq!(code(client.execute(&again)), "cancelled");
    front.mishaps(&[Mishap::Ignore]);
    assert_eq!(code(client.get(user(1), coins())), "unavailable");
    assert_eq!(client.get(user(1), coins()).unwrap().available, 0);
}

#[test]
fn not_now_comes_out_at_the_deadline() {
    let front = Front::start(&shared());
    let mut client = connect(&[front.address], Duration::from_millis(100));
    front.mishaps(&[Mishap::Busy; 1_000]);
    let error = client.credit(user(1), coins(), 5).unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::NotNow {
                code: ResultCode::Busy,
                id: Some(_)
            }
        ),
        "{error:?}"
    );
}

#[test]
fn batches_of_any_size_keep_their_order() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let count = 3 * limits::BATCH_COUNT_MAX + 5;
    let operations: Vec<_> = (0..count)
        .map(|index| {
            let owner = user(1 + u128::from(index % 500));
            let flags = Flags::OPEN_IF_MISSING;
            Operation::credit(client.new_id(), owner, coins(), 1).with_flags(flags)
        })
        .collect();
    front.mishaps(&[Mishap::Busy, Mishap::LoseAnswer]);
    let answers = client.batch(&operations).unwrap();
    assert_eq!(answers.len(), operations.len());
    for (index, (operation, answer)) in (0..).zip(operations.iter().zip(&answers)) {
        let receipt = answer.result().unwrap();
        assert_eq!(answer.id, operation.id());
        assert_eq!(receipt.available, 1 + index / 500, "operation {index}");
    }
    assert_eq!(client.batch(&[]), Ok(vec![]));
}

#[test]
fn large_requests_and_large_answers_do_not_block_each_other() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let opens: Vec<_> = (1..=256)
        .map(|currency| {
            let currency = Currency::new(currency).unwrap();
            Operation::open(
                client.new_id(),
                user(1),
                currency,
                AccountSettings::default(),
            )
        })
        .collect();
    client.batch(&opens).unwrap();
    // 16 MiB of rows come while 8 MiB of requests are on their way.
    let mut tickets = VecDeque::new();
    for _ in 0..10 {
        let mut operations: Vec<_> = vec![Operation::list(user(1), 0, 256); 100];
        operations.resize_with(8_000, || {
            let credit = Operation::credit(client.new_id(), user(2), coins(), 1);
            credit.with_flags(Flags::OPEN_IF_MISSING)
        });
        tickets.push_back(client.submit(&operations).unwrap());
    }
    for ticket in tickets {
        let answers = client.wait(ticket).unwrap();
        assert!(answers[..100].iter().all(|answer| answer.rows.len() == 256));
        assert!(answers.iter().all(|answer| answer.result().is_ok()));
    }
    let balance = client.get(user(2), coins()).unwrap().available;
    assert_eq!(balance, 79_000);
}

#[test]
fn tickets_are_taken_once_in_any_order() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let mut tickets = Vec::new();
    for number in 1..=5 {
        let credit = Operation::credit(client.new_id(), user(number), coins(), 1);
        let credit = credit.with_flags(Flags::OPEN_IF_MISSING);
        tickets.push(client.submit(&[credit]).unwrap());
    }
    let last = tickets.pop().unwrap();
    assert!(client.wait(last).unwrap()[0].result().is_ok());
    assert_eq!(code(client.wait(last)), "no_such_ticket");
    while !tickets.is_empty() {
        if let Some(ticket) = client.poll() {
            assert!(tickets.contains(&ticket));
            tickets.retain(|open| *open != ticket);
            client.wait(ticket).unwrap();
        }
    }
    let mut other = front.client();
    let theirs = other.submit(&[Operation::get(user(1), coins())]).unwrap();
    assert_eq!(code(client.wait(theirs)), "no_such_ticket");
    other.wait(theirs).unwrap();
    let too_many = vec![Operation::get(user(1), coins()); 8_193];
    assert_eq!(code(client.submit(&too_many)), "too_many_operations");
}

#[test]
fn what_cannot_be_connected_says_why() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::connect(&closed.to_string(), &Options::default()).unwrap_err();
    assert_eq!(error.number(), 1_001);
    assert!(error.to_string().contains(&closed.to_string()), "{error}");

    for text in [
        "",
        "127.0.0.1",
        "127.0.0.1:1,,127.0.0.1:2",
        "127.0.0.1:99999",
    ] {
        assert_eq!(
            code(Client::connect(text, &Options::default())),
            "bad_address"
        );
    }
    assert_eq!(
        code(Client::connect_to(&[], &Options::default())),
        "bad_address"
    );
    let two = resolve("127.0.0.1:1, 127.0.0.1:2").unwrap();
    assert_eq!(two.len(), 2);

    let front = Front::start(&shared());
    let pinned = Options {
        cluster: Some(cluster(78)),
        ..Options::default()
    };
    let error = Client::connect_to(&[front.address], &pinned).unwrap_err();
    assert_eq!(error.name(), "wrong_cluster");
}

#[test]
fn something_else_than_a_front_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let error = Client::connect_to(&[address], &Options::default()).unwrap_err();
    assert_eq!(error.name(), "protocol");
    thread.join().unwrap();
}

#[test]
fn a_client_may_move_to_another_thread() {
    let front = Front::start(&shared());
    let mut client = front.client();
    let status = std::thread::spawn(move || client.status()).join().unwrap();
    assert_eq!(status.unwrap(), r#"{"nodes":3}"#);
}
