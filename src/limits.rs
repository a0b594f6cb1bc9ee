//! Every limit of the product, each with its reason. Documented in protocol.md and docs/.

/// Operations in one request frame: one frame must fit in one block of the log.
pub const BATCH_COUNT_MAX: u32 = 8_192;

/// Bytes of a frame from or to a client: a full batch of operations with its headers.
pub const FRAME_SIZE_MAX: u32 = 1 << 20;

/// Bytes of a frame between daemons: one block of the log with its headers.
pub const LINK_FRAME_SIZE_MAX: u32 = 4 << 20;

/// Bytes of a frame before the handshake is done: a stranger costs no more than this.
pub const HELLO_FRAME_SIZE_MAX: u32 = 512;

/// Entries in one block: a full batch of operations of which each takes one entry, and room for
/// the node's own entries.
pub const BLOCK_ENTRY_COUNT_MAX: u32 = 8_192 + 64;

/// Bytes of a segment of the log unless set otherwise: small enough to retire often, large enough
/// to amortise its preparation.
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;

/// Smallest settable segment: it must hold one full block.
pub const SEGMENT_SIZE_MIN: u64 = 2 << 20;

/// Largest settable segment: offsets inside it fit in 32 bits.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;

/// Blocks that may be applied but not committed yet; above it a node answers `unavailable`.
pub const BLOCKS_IN_FLIGHT_MAX: u32 = 8;

/// Blocks in flight from which on a node waits until a full block has gathered: more load makes
/// larger blocks, not more of them.
pub const BLOCKS_IN_FLIGHT_EAGER: u32 = 2;

/// Operations that wait on a node for their turn; above it `busy`. Eight full blocks.
pub const NODE_QUEUED_COUNT_MAX: u32 = 8 * BATCH_COUNT_MAX;

/// Operations on a node that wait for a cold entry, with those that they hold back; above it
/// `busy`.
pub const NODE_PARKED_COUNT_MAX: u32 = 4_096;

/// Entries that a node asks the backup for at a time; more wait. Half of what a backup reads for
/// one peer.
pub const NODE_ENTRY_ASK_COUNT_MAX: u32 = 8;

/// Orders of the authority that wait on a node until they can be begun: it gives out one or two
/// at a time.
pub const NODE_MOVE_ORDER_COUNT_MAX: u32 = 64;

/// Bytes of answers on a node that wait for their commit or confirmation; above it `busy`.
pub const NODE_ANSWER_SIZE_MAX: u64 = 64 << 20;

/// Entries of the node's own (epoch, activation, horizon) in a block that also has changes.
pub const OWN_ENTRY_COUNT_MAX: u32 = BLOCK_ENTRY_COUNT_MAX - BATCH_COUNT_MAX;

/// How long a starting node goes on registering while its id is in use by another process. Longer
/// than it takes to notice that the other one is gone.
pub const IN_USE_MS_MAX: u64 = 5 * LINK_SILENCE_MS_MAX;

/// How long a node that was told to stop waits for what it applied to be committed.
pub const STOP_MS_MAX: u64 = 5_000;

/// Interval at which a node looks after checkpoints, old segments and free space.
pub const UPKEEP_MS: u64 = 1_000;

/// Bytes that a starting node may have fetched but not made durable before it fetches more.
pub const FETCH_AHEAD_SIZE_MAX: u64 = 4 * FETCH_SIZE_MAX as u64;

/// Slots of the ring.
pub const SLOT_COUNT: u32 = 65_536;

/// Node keys of weight 1: enough for an even spread, few enough to plan in a millisecond.
pub const NODE_KEY_COUNT_DEFAULT: u32 = 128;

/// Node keys of one node at the highest weight.
pub const NODE_KEY_COUNT_MAX: u32 = 4_096;

/// Nodes of one cluster.
pub const NODE_COUNT_MAX: u32 = 1_024;

/// Currencies of one user: a listing of a user stays a bounded walk.
pub const CURRENCIES_PER_USER_MAX: u32 = 4_096;

/// Different currencies on one node: the sums of all of them and the worst list of slots must fit
/// in the one block by which a log hands everything over.
pub const CURRENCY_COUNT_MAX: u32 = 8_192;

/// Accounts that a planned move takes at a time, about: its slots stand still for as long as it
/// takes to copy and load so many.
pub const MOVE_ACCOUNT_COUNT_GOAL: u64 = 20_000;

/// Accounts that one step of a watch, a sweep or a load takes on a node that goes on serving:
/// about a millisecond.
pub const MOVE_STEP_ACCOUNT_COUNT_MAX: u32 = 4_096;

/// Slot ranges of one move: every second slot.
pub const MOVE_RANGE_COUNT_MAX: u32 = SLOT_COUNT / 2;

/// Accounts on one node: they are numbered in 32 bits, with room for marks.
pub const ACCOUNT_COUNT_MAX: u32 = 1 << 30;

/// Rows that one `list` returns; more are fetched by cursor.
pub const LIST_ROW_COUNT_MAX: u32 = 256;

/// Rows that one turn of a node returns; above it `busy`.
pub const TURN_ROW_COUNT_MAX: u32 = 16_384;

/// Largest amount in minor units: what a balance can hold.
pub const AMOUNT_MAX: u64 = i64::MAX as u64;

/// Longest deadline a request may carry.
pub const DEADLINE_MS_MAX: u32 = 10_000;

/// Deadline of a request that carries none.
pub const DEADLINE_MS_DEFAULT: u32 = 5_000;

/// How far an id's time may lie ahead of the node's log time.
pub const ID_AHEAD_MS_MAX: u64 = 60_000;

/// How long ids are remembered unless memory is short.
pub const ID_WINDOW_MS: u64 = 24 * 60 * 60 * 1_000;

/// How long ids are always remembered: every retry within its deadline finds its first copy, with
/// a factor of three for clocks and queues.
pub const ID_WINDOW_MS_MIN: u64 = 3 * DEADLINE_MS_MAX as u64;

/// Ids that a node remembers unless set otherwise (16 bytes each).
pub const ID_COUNT_DEFAULT: u64 = 1 << 25;

/// How far log time may run ahead of the backup's clock.
pub const LOG_TIME_AHEAD_MS_MAX: u64 = 1_000;

/// A node whose clock disagrees with the backup's by more takes no changes.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// Inputs handed to a role before its turn ends: a turn must fit in one sync.
pub const INPUTS_PER_TURN_MAX: u32 = 1_024;

/// Connections of one listener.
pub const CONNECTION_COUNT_MAX: u32 = 10_000;

/// Accepted connections per wake-up, so that a flood of them cannot starve the others.
pub const ACCEPTS_PER_TURN_MAX: u32 = 64;

/// Time from accept to the end of the handshake.
pub const HANDSHAKE_MS_MAX: u64 = 3_000;

/// Time from a frame's first byte to its last.
pub const FRAME_MS_MAX: u64 = 5_000;

/// Time that a peer may leave queued bytes untaken.
pub const WRITE_STALL_MS_MAX: u64 = 10_000;

/// Bytes queued for a client above which it is no longer read from.
pub const CLIENT_QUEUE_SIZE_HIGH: u32 = 4 << 20;

/// Bytes queued for a client at which it is read from again.
pub const CLIENT_QUEUE_SIZE_LOW: u32 = 1 << 20;

/// Bytes queued for a peer of the cluster above which its link is closed and dialled anew.
pub const LINK_QUEUE_SIZE_MAX: u32 = 256 << 20;

/// Silence after which a client connection is asked for a sign of life.
pub const CLIENT_PING_MS: u64 = 30_000;

/// Interval of signs of life between daemons.
pub const LINK_PING_MS: u64 = 250;

/// Silence after which a daemon counts as gone.
pub const LINK_SILENCE_MS_MAX: u64 = 2_000;

/// Pause before a lost link is dialled again.
pub const REDIAL_MS: u64 = 50;

/// Operations that a front holds at a time, for all clients and nodes.
pub const FRONT_OPERATION_COUNT_MAX: u32 = 1 << 19;

/// Share of a front's budget that one node may use, as a divisor.
pub const FRONT_NODE_SHARE_DIVISOR: u32 = 2;

/// Request frames of one client that a front holds at a time.
pub const CLIENT_FRAMES_IN_FLIGHT_MAX: u32 = 1_024;

/// Pause before a router sends an operation again after a not-now answer.
pub const RETRY_MS: u64 = 5;

/// Pause before a router tries an operation again that got `moving`, if no newer table came: a
/// hand-over takes a fraction of it, and the table that ends it is told at once.
pub const MOVING_RETRY_MS: u64 = 1_000;

/// Bytes of free disk space below which a node takes no changes.
pub const DISK_RESERVE_SIZE: u64 = 256 << 20;

/// Bytes of one reply to a fetch of log or checkpoint bytes: at least one whole block.
pub const FETCH_SIZE_MAX: u32 = 2 << 20;

/// Bytes of a small file's content (identity, authority, base of a log): the authority's record
/// of the largest cluster, with room.
pub const SMALL_FILE_SIZE_MAX: u32 = 64 << 20;

/// Retired segments of one log that wait to be used again; more are removed.
pub const SEGMENT_POOL_COUNT_MAX: u32 = 2;

/// Bytes of the JSON text of one status answer.
pub const STATUS_SIZE_MAX: u32 = 512 << 10;

const _: () = assert!(usize::BITS == 64);
const _: () = assert!(BATCH_COUNT_MAX * 96 + 64 <= FRAME_SIZE_MAX);
const _: () = assert!(BATCH_COUNT_MAX <= BLOCK_ENTRY_COUNT_MAX);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX as u64 + 1) * 128 + 4_096 <= SEGMENT_SIZE_MIN);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX + 1) * 128 + 1_024 <= LINK_FRAME_SIZE_MAX);
// A take-over of everything in one block: epoch and drop entry, an activation of every second slot,
// the same slots in one list for each node, the sums of all currencies.
const _: () = assert!(
    2 + 2 * MOVE_RANGE_COUNT_MAX.div_ceil(24) + NODE_COUNT_MAX + CURRENCY_COUNT_MAX.div_ceil(2)
        <= BLOCK_ENTRY_COUNT_MAX
);
const _: () = assert!(SLOT_COUNT == u16::MAX as u32 + 1);
const _: () = assert!(FETCH_SIZE_MAX + 1_024 <= LINK_FRAME_SIZE_MAX);
const _: () = assert!(STATUS_SIZE_MAX + 1_024 <= FRAME_SIZE_MAX);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX + 1) * 128 <= FETCH_SIZE_MAX);
