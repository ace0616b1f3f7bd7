//! What runs in a worker: tasks, until there are no more.
//!
//! ```text
//!  task    id:8 │ place │ where:1 │ arguments     large arguments: in the first block beside the record
//!  result  id:8 │ verdict:1 │ where:1 │ payload   a large payload: in the first block beside the record
//! ```
//!
//! The payload of what failed begins with the worker's pid and name.

use super::builder::Call;
use crate::start::{self, Ran};
use crate::task::Place;
use crate::wire::{self, Arrived, Luggage};
use polyproc_engine::channel::{Envelope, Parcel};
use polyproc_engine::pool::{Taken, Worker};
use polyproc_engine::shm::Lease;
use polyproc_engine::{Deadline, Error, Handle};
use serde::{Deserialize, Serialize};

/// What a result is.
pub(super) mod verdict {
    pub(crate) const RETURNED: u8 = 0;
    pub(crate) const PANICKED: u8 = 1;
    pub(crate) const REFUSED: u8 = 2;
}

/// Where arguments or payload are.
pub(super) mod place {
    pub(crate) const HERE: u8 = 0;
    pub(crate) const IN_BLOCK: u8 = 1;
}

/// The largest arguments or result that lie in a record.
pub(super) const SMALL: usize = 32 * 1024;

/// A lane's handle, as an argument: the pool has made the worker its holder itself.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct LaneName([u8; 16]);

impl LaneName {
    pub(super) fn of(handle: Handle) -> LaneName {
        LaneName(handle.to_bytes())
    }
}

/// The task of a worker. Gives why it ended early.
pub(super) fn serve(lane: LaneName, name: String, on_start: Option<Call>, on_exit: Option<Call>) -> Result<(), String> {
    if let Some(call) = on_start {
        make(&call).map_err(|why| format!("on_start {why}"))?;
    }
    work(lane, &name).map_err(|error| error.to_string())?;
    if let Some(call) = on_exit
        && let Err(why) = make(&call)
    {
        log::error!("polyproc: {name}: on_exit {why}");
    }
    Ok(())
}

/// Makes the call of a hook. An error says what became of it.
fn make(call: &Call) -> Result<(), String> {
    let Some(code) = start::code_at(call.place) else { return Err("is not there".to_owned()) };
    match start::run(code, &call.arguments, Arrived::default()) {
        Ran::Returned(..) => Ok(()),
        Ran::Panicked(message, Some(location)) => Err(format!("panicked at {location}: {message}")),
        Ran::Panicked(message, None) => Err(format!("panicked: {message}")),
        Ran::Refused(why) => Err(format!("could not be called: {why}")),
    }
}

fn work(lane: LaneName, name: &str) -> polyproc_engine::Result<()> {
    let mut worker = Worker::attach(Handle::from_bytes(&lane.0)?)?;
    worker.ready();
    let mut envelope = Envelope::new();
    let mut record = Vec::new();
    loop {
        let id = match wire::again(|| worker.take(&mut envelope, Deadline::Never))? {
            Taken::Task(id) => id,
            Taken::Stop => return Ok(()),
        };
        let ran = perform(&mut envelope);
        record.clear();
        record.extend_from_slice(&id.to_le_bytes());
        let (verdict, payload, mut luggage) = match ran {
            Ran::Returned(mut bytes, mut luggage) => match wire::leave_descriptors(&mut bytes, &mut luggage) {
                Ok(()) => (verdict::RETURNED, bytes, luggage),
                Err(error) => (verdict::REFUSED, refusal(name, &error.to_string()), Luggage::default()),
            },
            Ran::Panicked(message, location) => {
                let bytes = wire::encode(&(pid(), name, message, location), Vec::new()).map(|(bytes, _)| bytes);
                (verdict::PANICKED, bytes.unwrap_or_default(), Luggage::default())
            }
            Ran::Refused(why) => (verdict::REFUSED, refusal(name, &why), Luggage::default()),
        };
        let large = payload.len() > SMALL;
        record.extend_from_slice(&[verdict, u8::from(large)]);
        if !large {
            record.extend_from_slice(&payload);
        }
        let handles = luggage.handles();
        let committed = beside(&record, large.then_some(&payload), &mut luggage, &handles)
            .and_then(|mut parcel| worker.commit(&mut parcel));
        match committed {
            Ok(()) => {}
            Err(error @ (Error::BudgetExhausted { .. } | Error::TooMany { .. })) => {
                record.truncate(8);
                record.extend_from_slice(&[verdict::REFUSED, place::HERE]);
                record.extend_from_slice(&refusal(name, &format!("the result could not be sent: {error}")));
                worker.commit(&mut Parcel::new(0, &record)?)?;
            }
            Err(error) => return Err(error),
        }
        envelope.clear();
    }
}

fn pid() -> i32 {
    std::process::id() as i32
}

fn refusal(name: &str, why: &str) -> Vec<u8> {
    wire::encode(&(pid(), name, why), Vec::new()).map(|(bytes, _)| bytes).unwrap_or_default()
}

/// A record, with what lies beside it.
pub(super) fn beside<'a>(
    record: &'a [u8],
    large: Option<&[u8]>,
    luggage: &mut Luggage,
    handles: &'a [Handle],
) -> polyproc_engine::Result<Parcel<'a>> {
    let blocks = std::mem::take(&mut luggage.blocks);
    let mut parcel = wire::parcel(0, record, luggage, handles)?;
    if let Some(bytes) = large {
        parcel.add_bytes(bytes)?;
    }
    if blocks.len() >= Parcel::MOST_BUFFERS {
        let limit = Parcel::MOST_BUFFERS as u64 - 1;
        return Err(Error::TooMany { what: "blocks in one message", limit });
    }
    blocks.into_iter().for_each(|block| parcel.add_lease(block));
    Ok(parcel)
}

/// The blocks of a record that was not sent, without those of large arguments, which are copied there once more.
pub(super) fn blocks_of(parcel: Parcel<'_>, large: bool) -> Vec<Lease> {
    let mut blocks = parcel.into_leases();
    if large && !blocks.is_empty() {
        blocks.remove(0);
    }
    blocks
}

/// Runs `f` with the bytes that a record has here or beside it, and with the other blocks.
pub(super) fn unpack<R>(
    place: u8,
    here: &[u8],
    mut blocks: Vec<Lease>,
    f: impl FnOnce(&[u8], Arrived) -> R,
) -> Option<R> {
    match place {
        place::HERE => Some(f(here, Arrived::new([], blocks))),
        place::IN_BLOCK if !blocks.is_empty() => {
            let bytes = blocks.remove(0).to_vec();
            Some(f(&bytes, Arrived::new([], blocks)))
        }
        _ => None,
    }
}

fn perform(envelope: &mut Envelope) -> Ran {
    let blocks = std::mem::take(&mut envelope.buffers);
    let parsed = envelope.inline.get(8..).and_then(|bytes| postcard::take_from_bytes::<Place>(bytes).ok());
    let refused = || Ran::Refused("its record does not parse".to_owned());
    let Some((code, [place, rest @ ..])) = parsed.and_then(|(place, rest)| Some((start::code_at(place)?, rest))) else {
        return refused();
    };
    unpack(*place, rest, blocks, |arguments, arrived| start::run(code, arguments, arrived)).unwrap_or_else(refused)
}
