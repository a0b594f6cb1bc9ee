//! `cluster`: nodes come, go and change their share of the slots; planned moves stop and go on.
//!
//! A command is done once the authority has recorded it; with `--wait` once the slots have moved.

use std::time::Duration;

use serde_json::{Value, json};

use super::output::{error_line, fields, grouped, is_watched, line, object, table};
use super::{Failure, Target};
use crate::client::{Client, ClusterAsk, ClusterCommand, MoveNumber, NodeId};
use crate::clock::Clock;
use crate::role::ExitCode;

/// Pause between two looks at the state while it is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Flags of `cluster`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    #[command(subcommand)]
    command: Command,
}

/// What is to be done.
#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Says how a new node is started; with --wait, waits until it has its share of the slots.
    AddNode(AddFlags),
    /// Takes a node's slots away and gives them to the others.
    Drain(NodeFlags),
    /// Takes a node that owns nothing out of the cluster.
    RemoveNode(NodeFlags),
    /// Changes a node's share of the slots: 0 = none, 1 = 128 node keys, 2 = twice as many, ...
    Weight(WeightFlags),
    /// Shows what each node has and gets, and which slots are to move.
    Plan(PlainFlags),
    /// Begins no planned move any more; those under way are finished.
    Pause(PlainFlags),
    /// Begins planned moves again.
    Resume(PlainFlags),
    /// Takes back a move that nobody was told of.
    Cancel(CancelFlags),
}

/// How a change is carried out.
#[derive(Clone, Debug, clap::Args)]
struct How {
    #[command(flatten)]
    target: Target,
    /// Only say what would move.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the slots have moved.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait for that, in seconds.
    #[arg(long, default_value_t = 3_600, value_name = "SECONDS")]
    wait_s_max: u64,
}

#[derive(Clone, Debug, clap::Args)]
struct PlainFlags {
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Debug, clap::Args)]
struct NodeFlags {
    /// Number of the node.
    #[arg(value_parser = parse_node)]
    node: NodeId,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct AddFlags {
    /// Number of the new node.
    #[arg(value_parser = parse_node)]
    node: NodeId,
    /// Its weight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=32))]
    weight: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct WeightFlags {
    /// Number of the node.
    #[arg(value_parser = parse_node)]
    node: NodeId,
    /// Its new weight.
    #[arg(value_parser = clap::value_parser!(u32).range(0..=32))]
    weight: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct CancelFlags {
    /// Number of the move, as `status` shows it.
    number: u64,
    #[command(flatten)]
    target: Target,
}

fn parse_node(text: &str) -> Result<NodeId, String> {
    let number = text
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    NodeId::new(number).ok_or_else(|| "0 is no node".to_owned())
}

/// A command for the authority without anything that it may not need.
const fn plain(command: ClusterCommand) -> ClusterAsk {
    ClusterAsk {
        command,
        dry_run: false,
        node: None,
        weight: 0,
        number: MoveNumber(0),
    }
}

impl Flags {
    pub(super) const fn wants_json(&self) -> bool {
        match &self.command {
            Command::AddNode(flags) => flags.how.target.json,
            Command::Drain(flags) | Command::RemoveNode(flags) => flags.how.target.json,
            Command::Weight(flags) => flags.how.target.json,
            Command::Plan(flags) | Command::Pause(flags) | Command::Resume(flags) => {
                flags.target.json
            }
            Command::Cancel(flags) => flags.target.json,
        }
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    match &flags.command {
        Command::AddNode(flags) => add_node(flags),
        Command::Drain(flags) => change(&flags.how, flags.node, ClusterCommand::Drain, 0),
        Command::RemoveNode(flags) => change(&flags.how, flags.node, ClusterCommand::Remove, 0),
        Command::Weight(flags) => {
            change(&flags.how, flags.node, ClusterCommand::Weight, flags.weight)
        }
        Command::Plan(flags) => tell(&flags.target, plain(ClusterCommand::Plan)),
        Command::Pause(flags) => tell(&flags.target, plain(ClusterCommand::Pause)),
        Command::Resume(flags) => tell(&flags.target, plain(ClusterCommand::Resume)),
        Command::Cancel(flags) => {
            let ask = ClusterAsk {
                number: MoveNumber(flags.number),
                ..plain(ClusterCommand::Cancel)
            };
            tell(&flags.target, ask)
        }
    }
}

/// A command without anything to wait for.
fn tell(target: &Target, ask: ClusterAsk) -> Result<ExitCode, Failure> {
    let mut client = target.connect()?;
    let answer = command(&mut client, ask)?;
    if target.json {
        object(&answer);
    } else {
        print_answer(&answer);
    }
    Ok(ExitCode::Ok)
}

fn change(how: &How, node: NodeId, kind: ClusterCommand, weight: u32) -> Result<ExitCode, Failure> {
    let ask = ClusterAsk {
        dry_run: how.dry_run,
        node: Some(node),
        weight,
        ..plain(kind)
    };
    let mut client = how.target.connect()?;
    let answer = command(&mut client, ask)?;
    if !how.target.json {
        print_answer(&answer);
    }
    if how.wait {
        wait(&mut client, how, |_status| true)?;
    }
    if how.target.json {
        object(&answer);
    }
    Ok(ExitCode::Ok)
}

fn add_node(flags: &AddFlags) -> Result<ExitCode, Failure> {
    let (node, how) = (flags.node, &flags.how);
    if how.dry_run {
        return change(how, node, ClusterCommand::Add, flags.weight);
    }
    let mut client = how.target.connect()?;
    let status = state(&mut client)?;
    let backup = word(&status, "address");
    let start = format!(
        "counterfoil node --id {node} --backup {backup} --data-dir DIR --join --weight {}",
        flags.weight
    );
    if !how.target.json {
        if member(&status, node).is_some() {
            line(&format!("node {node} is a member already"));
        } else {
            line(&format!("node {node} joins when it is started: {start}"));
        }
    }
    if how.wait {
        wait(&mut client, how, |status| {
            member(status, node).is_some_and(|member| word(member, "state") == "present")
        })?;
    }
    if how.target.json {
        let status = state(&mut client)?;
        object(&json!({
            "node": node.get(),
            "weight": flags.weight,
            "start": start,
            "member": member(&status, node),
        }));
    }
    Ok(ExitCode::Ok)
}

/// Gives a command to the authority. What it does not do is a failure.
fn command(client: &mut Client, ask: ClusterAsk) -> Result<Value, Failure> {
    let answer = parse(&client.command(ask)?)?;
    match answer.get("refused") {
        Some(why) => {
            let text = why.as_str().unwrap_or("without a reason");
            Err(Failure::new(ExitCode::Refused, "refused", text))
        }
        None => Ok(answer),
    }
}

fn state(client: &mut Client) -> Result<Value, Failure> {
    parse(&client.status()?)
}

fn parse(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        let text = format!("the answer is no JSON: {error}");
        Failure::new(ExitCode::Unhealthy, "answer", text)
    })
}

/// Waits until `is_there` holds and nothing is left to move. Tells the progress.
fn wait(client: &mut Client, how: &How, is_there: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    let clock = Clock::start();
    let mut said = String::new();
    loop {
        let status = state(client)?;
        let moves = status.get("moves").unwrap_or(&Value::Null);
        let to_move = number(moves, "slots_to_move");
        let under_way = list(moves, "moves");
        if is_there(&status) && to_move == 0 && under_way.is_empty() {
            return Ok(());
        }
        let moving: u64 = under_way.iter().map(|moving| number(moving, "slots")).sum();
        let waits = under_way.first().map_or_else(
            || "nothing is under way".to_owned(),
            |first| {
                format!(
                    "move {} waits for {}",
                    word(first, "number"),
                    word(first, "waits_for")
                )
            },
        );
        let text = if is_there(&status) {
            format!(
                "{} slots to move, {} moving: {waits}",
                grouped(to_move),
                grouped(moving)
            )
        } else {
            "waiting for the node".to_owned()
        };
        if text != said && is_watched() {
            error_line(&text);
        }
        said = text;
        if how.wait_s_max <= clock.now().tick.0.div_euclid(1_000_000_000) {
            let text = format!("it takes more than {} s: {said}", how.wait_s_max);
            return Err(Failure::new(ExitCode::Unhealthy, "not_done", text));
        }
        std::thread::park_timeout(LOOK_PAUSE);
    }
}

fn print_answer(answer: &Value) {
    line(&word(answer, "text"));
    let Some(plan) = answer.get("plan") else {
        return;
    };
    fields(&[
        ("ring epoch", word(plan, "ring_epoch")),
        ("paused", word(plan, "paused")),
        ("moves under way", word(plan, "under_way")),
        ("slots to move", grouped(number(plan, "slots_to_move"))),
        (
            "accounts to move",
            grouped(number(plan, "accounts_to_move")),
        ),
    ]);
    line("");
    let columns = [
        "node",
        "weight",
        "draining",
        "emptied",
        "slots",
        "planned_slots",
    ];
    table(&columns, rows(list(plan, "nodes"), &columns));
    let moves = list(plan, "moves");
    if !moves.is_empty() {
        line("");
        let columns = ["source", "target", "slots", "accounts", "waits_for"];
        table(&columns, rows(moves, &columns));
    }
}

/// The moves and take-overs of a status.
pub(super) fn print_moves(status: &Value) {
    let Some(moves) = status.get("moves") else {
        return;
    };
    let under_way = list(moves, "moves");
    let take_overs = list(moves, "take_overs");
    let stuck = word(moves, "stuck");
    if stuck != "-" {
        line("");
        line(&format!("STUCK: {stuck}"));
    }
    if number(moves, "slots_to_move") != 0 || !under_way.is_empty() {
        line("");
        let paused = if moves.get("paused") == Some(&Value::Bool(true)) {
            ", paused"
        } else {
            ""
        };
        line(&format!(
            "{} slots to move{paused}",
            grouped(number(moves, "slots_to_move"))
        ));
    }
    if !under_way.is_empty() {
        let columns = [
            "number",
            "cause",
            "source",
            "target",
            "slots",
            "accounts",
            "state",
            "since_ms",
            "waits_for",
        ];
        table(&columns, rows(under_way, &columns));
    }
    if !take_overs.is_empty() {
        line("");
        let columns = [
            "node",
            "silent_ms",
            "slots",
            "accounts",
            "handed_after_ms",
            "first_serving_after_ms",
            "last_serving_after_ms",
        ];
        line("taken over:");
        table(&columns, rows(take_overs, &columns));
    }
}

fn rows(list: &[Value], columns: &[&str]) -> Vec<Vec<String>> {
    let cells = |row: &Value| columns.iter().map(|name| word(row, name)).collect();
    list.iter().map(cells).collect()
}

fn member(status: &Value, node: NodeId) -> Option<&Value> {
    let mut nodes = list(status, "nodes").iter();
    nodes.find(|member| number(member, "node") == u64::from(node.get()))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
