//! Many operations: several batches in flight, and a proof that the sums are right.
//!
//! ```text
//! cargo run --release --example batch -- 127.0.0.1:6468
//! ```
//!
//! Credits and debits the accounts of 1,000 users in batches that overlap, then reads all accounts
//! back and compares what each gained with what the receipts said.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

use counterfoil::client::{
    Answer, Client, ClientError, Currency, Flags, Kind, Operation, Options, ResultCode, Ticket,
    UserId,
};

const USER_COUNT: u128 = 1_000;
const FIRST_USER: u128 = 1_000_000;
const BATCH_COUNT: u64 = 40;
/// Batches in flight at a time.
const DEPTH: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let address = arguments.get(1).map_or("127.0.0.1:6468", String::as_str);
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the receipts said.
#[derive(Default)]
struct Totals {
    done: u64,
    refused: u64,
    gained: BTreeMap<u128, i64>,
}

impl Totals {
    fn add(
        &mut self,
        operations: &[Operation],
        answers: &[Answer],
    ) -> Result<(), Box<dyn std::error::Error>> {
        for (operation, answer) in operations.iter().zip(answers) {
            match answer.result() {
                Ok(receipt) => {
                    let amount = i64::try_from(receipt.amount)?;
                    let is_debit = operation.kind() == Kind::Debit;
                    let sign = if is_debit { -1 } else { 1 };
                    let user = operation.user().get();
                    *self.gained.entry(user).or_default() += sign * amount;
                    self.done += 1;
                }
                // Too little in the account, or nothing credited to it yet.
                Err(ClientError::Refused {
                    code: ResultCode::Insufficient | ResultCode::NotFound,
                    ..
                }) => self.refused += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let options = Options {
        deadline: Duration::from_secs(10),
        ..Options::default()
    };
    let mut client = Client::connect(address, &options)?;
    let coins = Currency::new(2).ok_or("a currency is not 0")?;
    let users: Vec<UserId> = (FIRST_USER..FIRST_USER + USER_COUNT)
        .filter_map(UserId::new)
        .collect();

    let before = balances(&mut client, &users, coins)?;

    let mut totals = Totals::default();
    let mut in_flight: VecDeque<(Ticket, Vec<Operation>)> = VecDeque::new();
    for round in 0..BATCH_COUNT {
        if in_flight.len() == DEPTH
            && let Some((ticket, operations)) = in_flight.pop_front()
        {
            totals.add(&operations, &client.wait(ticket)?)?;
        }
        let operations = batch(&mut client, &users, coins, round);
        // Does not wait: the next batch is made while this one is on its way. Two batches of one
        // user stay in order all the same.
        in_flight.push_back((client.submit(&operations)?, operations));
    }
    while let Some((ticket, operations)) = in_flight.pop_front() {
        totals.add(&operations, &client.wait(ticket)?)?;
    }
    println!("{} done, {} refused", totals.done, totals.refused);

    let after = balances(&mut client, &users, coins)?;
    let mut sum = 0;
    for user in &users {
        let user = user.get();
        let gained = after.get(&user).unwrap_or(&0) - before.get(&user).unwrap_or(&0);
        let told = totals.gained.get(&user).copied().unwrap_or(0);
        if gained != told {
            return Err(format!("user {user} gained {gained}, receipts said {told}").into());
        }
        sum += gained;
    }
    println!(
        "{} accounts agree with their receipts; gained {sum} in all",
        users.len()
    );
    Ok(())
}

fn batch(client: &mut Client, users: &[UserId], coins: Currency, round: u64) -> Vec<Operation> {
    let mut operations = Vec::with_capacity(users.len());
    for (index, user) in (0_u64..).zip(users) {
        let id = client.new_id();
        operations.push(if (index + round) % 3 == 2 {
            Operation::debit(id, *user, coins, 70)
        } else {
            Operation::credit(id, *user, coins, 30 + index % 7).with_flags(Flags::OPEN_IF_MISSING)
        });
    }
    operations
}

fn balances(
    client: &mut Client,
    users: &[UserId],
    coins: Currency,
) -> Result<BTreeMap<u128, i64>, Box<dyn std::error::Error>> {
    let gets: Vec<_> = users
        .iter()
        .map(|user| Operation::get(*user, coins))
        .collect();
    let mut balances = BTreeMap::new();
    for (operation, answer) in gets.iter().zip(client.batch(&gets)?) {
        match answer.result() {
            Ok(receipt) => {
                balances.insert(operation.user().get(), receipt.available);
            }
            Err(ClientError::Refused {
                code: ResultCode::NotFound,
                ..
            }) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(balances)
}
