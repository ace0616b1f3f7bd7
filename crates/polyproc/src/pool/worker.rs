//! What runs in a worker: tasks, until there are no more.
//!
//! ```text
//!  task    id:8 │ place │ arguments          large arguments: in a block beside the record
//!  result  id:8 │ verdict:1 │ payload        a large payload: in a block beside the record
//! ```
//!
//! The payload of what failed begins with the worker's pid.

use crate::start::{self, Ran};
use crate::task::Place;
use crate::wire;
use polyproc_engine::channel::{Envelope, Parcel};
use polyproc_engine::pool::{Taken, Worker};
use polyproc_engine::{Deadline, Error, Handle};
use serde::{Deserialize, Serialize};

/// What a result is.
pub(super) mod verdict {
    pub(crate) const RETURNED: u8 = 0;
    pub(crate) const PANICKED: u8 = 1;
    pub(crate) const REFUSED: u8 = 2;
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
pub(super) fn serve(lane: LaneName) -> Result<(), String> {
    work(lane).map_err(|error| error.to_string())
}

fn work(lane: LaneName) -> polyproc_engine::Result<()> {
    let mut worker = Worker::attach(Handle::from_bytes(&lane.0)?)?;
    worker.ready();
    let mut envelope = Envelope::new();
    let mut record = Vec::new();
    loop {
        let id = match wire::again(|| worker.take(&mut envelope, Deadline::Never))? {
            Taken::Task(id) => id,
            Taken::Stop => return Ok(()),
        };
        let ran = perform(&envelope);
        record.clear();
        record.extend_from_slice(&id.to_le_bytes());
        let (verdict, payload, luggage) = match ran {
            Ran::Returned(bytes, luggage) => (verdict::RETURNED, bytes, luggage),
            Ran::Panicked(message, location) => {
                let bytes = wire::encode(&(pid(), message, location), Vec::new()).map(|(bytes, _)| bytes);
                (verdict::PANICKED, bytes.unwrap_or_default(), wire::Luggage::default())
            }
            Ran::Refused(why) => (verdict::REFUSED, refusal(why), wire::Luggage::default()),
        };
        record.push(verdict);
        let large = payload.len() > SMALL;
        if !large {
            record.extend_from_slice(&payload);
        }
        let handles = luggage.handles();
        let mut parcel = Parcel::new(0, &record)?;
        let added = if large { parcel.add_bytes(&payload) } else { Ok(()) };
        parcel.set_references(&handles);
        match added.and_then(|()| worker.commit(&mut parcel)) {
            Ok(()) => {}
            Err(error @ Error::BudgetExhausted { .. }) => {
                drop(parcel);
                record.truncate(8);
                record.push(verdict::REFUSED);
                record.extend_from_slice(&refusal(format!("the result could not be sent: {error}")));
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

fn refusal(why: String) -> Vec<u8> {
    wire::encode(&(pid(), why), Vec::new()).map(|(bytes, _)| bytes).unwrap_or_default()
}

fn perform(envelope: &Envelope) -> Ran {
    let parsed = envelope.inline.get(8..).and_then(|bytes| postcard::take_from_bytes::<Place>(bytes).ok());
    let Some((code, rest)) = parsed.and_then(|(place, rest)| Some((start::code_at(place)?, rest))) else {
        return Ran::Refused("its record does not parse".to_owned());
    };
    match envelope.buffers.first() {
        Some(block) => start::run(code, &block.to_vec(), Vec::new()),
        None => start::run(code, rest, Vec::new()),
    }
}
