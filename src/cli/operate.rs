//! The everyday verbs: one operation each.

use serde_json::{Value, json};

use super::output::{fields, object, table};
use super::{Failure, Target};
use crate::client::{Answer, Client};
use crate::limits::AMOUNT_MAX;
use crate::model::{
    AccountSettings, CodeClass, Currency, Flags, Operation, OperationId, ReceiptFlags, Row, UserId,
};
use crate::role::ExitCode;

/// Which account.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Account {
    /// User id: a decimal number or a UUID.
    #[arg(value_parser = parse_user)]
    user: UserId,
    /// Currency code, 1 to 4294967295.
    #[arg(value_parser = parse_currency)]
    currency: Currency,
}

/// What every change may carry.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Note {
    /// Id of the operation (a UUID); the same id is never applied twice. Drawn if not given.
    #[arg(long, value_parser = parse_id)]
    id: Option<OperationId>,
    /// Your own 32-bit code, kept in the entry.
    #[arg(long, default_value_t = 0)]
    reason: u32,
    /// Your own 64-bit number, kept in the entry.
    #[arg(long, default_value_t = 0)]
    reference: u64,
}

/// Settings of an account.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Settings {
    /// How far below zero the balance may go, in minor units.
    #[arg(long, default_value_t = 0)]
    floor: u64,
    /// Highest balance, in minor units.
    #[arg(long, default_value_t = AMOUNT_MAX)]
    cap: u64,
    /// No credits and debits from now on.
    #[arg(long)]
    frozen: bool,
}

impl Settings {
    const fn get(self) -> AccountSettings {
        AccountSettings {
            floor: self.floor,
            cap: self.cap,
            frozen: self.frozen,
        }
    }
}

/// Flags of `open`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct OpenFlags {
    #[command(flatten)]
    account: Account,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    note: Note,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `close`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CloseFlags {
    #[command(flatten)]
    account: Account,
    /// Only if the account has this version.
    #[arg(long)]
    if_version: Option<u64>,
    #[command(flatten)]
    note: Note,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `configure`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigureFlags {
    #[command(flatten)]
    account: Account,
    #[command(flatten)]
    settings: Settings,
    /// The version that the account has (see `get`).
    #[arg(long)]
    if_version: u64,
    #[command(flatten)]
    note: Note,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `credit`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CreditFlags {
    #[command(flatten)]
    account: Account,
    /// Minor units, 1 to 9223372036854775807.
    amount: u64,
    /// Open the account if it is not there.
    #[arg(long)]
    open: bool,
    /// Only if the account has this version.
    #[arg(long)]
    if_version: Option<u64>,
    #[command(flatten)]
    note: Note,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `debit`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DebitFlags {
    #[command(flatten)]
    account: Account,
    /// Minor units, 1 to 9223372036854775807.
    amount: u64,
    /// Take what is there, up to the amount.
    #[arg(long)]
    up_to: bool,
    /// Only if the account has this version.
    #[arg(long)]
    if_version: Option<u64>,
    #[command(flatten)]
    note: Note,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `get`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GetFlags {
    #[command(flatten)]
    account: Account,
    /// The last committed state of the node, without asking the backup for its term.
    #[arg(long)]
    recent: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `list`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListFlags {
    /// User id: a decimal number or a UUID.
    #[arg(value_parser = parse_user)]
    user: UserId,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `find`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FindFlags {
    /// User id: a decimal number or a UUID.
    #[arg(value_parser = parse_user)]
    user: UserId,
    /// Id of the operation.
    #[arg(value_parser = parse_id)]
    id: OperationId,
    /// If the id was not seen, make sure that it never will be applied.
    #[arg(long)]
    burn: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) fn parse_user(text: &str) -> Result<UserId, String> {
    text.parse()
        .map_err(|error: crate::model::IdTextError| error.to_string())
}

pub(super) fn parse_id(text: &str) -> Result<OperationId, String> {
    text.parse()
        .map_err(|error: crate::model::IdTextError| error.to_string())
}

pub(super) fn parse_currency(text: &str) -> Result<Currency, String> {
    let code = text
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    Currency::new(code).ok_or_else(|| "0 is no currency".to_owned())
}

pub(super) fn open(flags: &OpenFlags) -> Result<ExitCode, Failure> {
    change(&flags.target, &flags.note, |id| {
        Operation::open(
            id,
            flags.account.user,
            flags.account.currency,
            flags.settings.get(),
        )
    })
}

pub(super) fn close(flags: &CloseFlags) -> Result<ExitCode, Failure> {
    change(&flags.target, &flags.note, |id| {
        let operation = Operation::close(id, flags.account.user, flags.account.currency);
        versioned(operation, flags.if_version)
    })
}

pub(super) fn configure(flags: &ConfigureFlags) -> Result<ExitCode, Failure> {
    change(&flags.target, &flags.note, |id| {
        let Account { user, currency } = flags.account;
        Operation::configure(id, user, currency, flags.settings.get(), flags.if_version)
    })
}

pub(super) fn credit(flags: &CreditFlags) -> Result<ExitCode, Failure> {
    change(&flags.target, &flags.note, |id| {
        let Account { user, currency } = flags.account;
        let operation = Operation::credit(id, user, currency, flags.amount);
        let opens = if flags.open {
            Flags::OPEN_IF_MISSING
        } else {
            Flags(0)
        };
        versioned(operation.with_flags(opens), flags.if_version)
    })
}

pub(super) fn debit(flags: &DebitFlags) -> Result<ExitCode, Failure> {
    change(&flags.target, &flags.note, |id| {
        let Account { user, currency } = flags.account;
        let operation = Operation::debit(id, user, currency, flags.amount);
        let up_to = if flags.up_to { Flags::UP_TO } else { Flags(0) };
        versioned(operation.with_flags(up_to), flags.if_version)
    })
}

fn versioned(operation: Operation, version: Option<u64>) -> Operation {
    match version {
        Some(version) => operation.if_version(version),
        None => operation,
    }
}

/// Sends one change. The id is printed before anything can go wrong behind it, so that whoever
/// ran the command can ask for its outcome.
fn change(
    target: &Target,
    note: &Note,
    make: impl FnOnce(OperationId) -> Operation,
) -> Result<ExitCode, Failure> {
    let mut client = target.connect()?;
    let id = note.id.unwrap_or_else(|| client.new_id());
    let operation = make(id).with_note(note.reason, note.reference);
    run(target, &mut client, operation)
}

/// Does one operation, prints its answer whatever it is, and says it as an exit code.
fn run(target: &Target, client: &mut Client, operation: Operation) -> Result<ExitCode, Failure> {
    let answers = client.batch(&[operation])?;
    let answer = answers.first().ok_or_else(|| {
        Failure::new(
            ExitCode::Unhealthy,
            "no_answer",
            "the client library gave no answer",
        )
    })?;
    print_answer(target, answer);
    Ok(match answer.receipt.code.class() {
        CodeClass::Done => ExitCode::Ok,
        CodeClass::Refusal | CodeClass::Id | CodeClass::Malformed => ExitCode::Refused,
        CodeClass::Unknown => ExitCode::Unknown,
        CodeClass::NotNow => ExitCode::Unhealthy,
    })
}

fn print_answer(target: &Target, answer: &Answer) {
    let receipt = &answer.receipt;
    if target.json {
        object(&answer_json(answer));
        return;
    }
    let mut pairs = vec![("result", receipt.code.to_string())];
    if let Some(id) = answer.id {
        pairs.push(("id", id.to_string()));
    }
    if receipt.flags.has(ReceiptFlags::REPLAYED) {
        pairs.push((
            "replayed",
            "yes: this is the first receipt again".to_owned(),
        ));
    }
    if receipt.version != 0 {
        pairs.push(("available", receipt.available.to_string()));
        pairs.push(("held", receipt.held.to_string()));
        pairs.push(("version", receipt.version.to_string()));
    }
    if receipt.flags.has(ReceiptFlags::FROZEN) {
        pairs.push(("frozen", "yes".to_owned()));
    }
    if receipt.place.0 != 0 {
        pairs.push(("place", receipt.place.to_string()));
    }
    fields(&pairs);
}

fn answer_json(answer: &Answer) -> Value {
    let receipt = &answer.receipt;
    json!({
        "schema": "counterfoil-receipt/1",
        "result": receipt.code.name(),
        "id": answer.id.map(|id| id.to_string()),
        "replayed": receipt.flags.has(ReceiptFlags::REPLAYED),
        "created": receipt.flags.has(ReceiptFlags::CREATED),
        "frozen": receipt.flags.has(ReceiptFlags::FROZEN),
        "available": receipt.available.to_string(),
        "held": receipt.held.to_string(),
        "amount": receipt.amount.to_string(),
        "version": receipt.version.to_string(),
        "place": receipt.place.to_string(),
    })
}

pub(super) fn get(flags: &GetFlags) -> Result<ExitCode, Failure> {
    let mut client = flags.target.connect()?;
    let recent = if flags.recent {
        Flags::RECENT
    } else {
        Flags(0)
    };
    let operation = Operation::get(flags.account.user, flags.account.currency);
    run(&flags.target, &mut client, operation.with_flags(recent))
}

pub(super) fn list(flags: &ListFlags) -> Result<ExitCode, Failure> {
    let mut client = flags.target.connect()?;
    let rows = client.list(flags.user)?;
    if flags.target.json {
        let accounts: Vec<Value> = rows.iter().map(row_json).collect();
        object(&json!({
            "schema": "counterfoil-accounts/1",
            "user": flags.user.to_string(),
            "accounts": accounts,
        }));
    } else {
        let head = [
            "currency",
            "available",
            "held",
            "outgoing",
            "floor",
            "cap",
            "version",
            "",
        ];
        table(&head, rows.iter().map(row_cells).collect());
    }
    Ok(ExitCode::Ok)
}

fn row_cells(row: &Row) -> Vec<String> {
    let cap = if row.cap == AMOUNT_MAX {
        "none".to_owned()
    } else {
        row.cap.to_string()
    };
    vec![
        row.currency.to_string(),
        row.available.to_string(),
        row.held.to_string(),
        row.outgoing.to_string(),
        row.floor.to_string(),
        cap,
        row.version.to_string(),
        if row.flags & 1 == 1 {
            "frozen".to_owned()
        } else {
            String::new()
        },
    ]
}

fn row_json(row: &Row) -> Value {
    json!({
        "currency": row.currency,
        "available": row.available.to_string(),
        "held": row.held.to_string(),
        "outgoing": row.outgoing.to_string(),
        "floor": row.floor.to_string(),
        "cap": row.cap.to_string(),
        "frozen": row.flags & 1 == 1,
        "version": row.version.to_string(),
        "place": row.place.to_string(),
    })
}

pub(super) fn find(flags: &FindFlags) -> Result<ExitCode, Failure> {
    let mut client = flags.target.connect()?;
    let burn = if flags.burn { Flags::BURN } else { Flags(0) };
    run(
        &flags.target,
        &mut client,
        Operation::find(flags.id, flags.user).with_flags(burn),
    )
}
