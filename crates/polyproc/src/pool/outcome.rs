//! What came of a task, and what its ticket makes of it.

use super::worker::{self, verdict};
use crate::process;
use crate::wire::{self, Arrived};
use crate::{Identity, TaskError};
use polyproc_engine::Error as EngineError;
use polyproc_engine::channel::Envelope;
use polyproc_engine::process::Ending;
use polyproc_engine::sys::proc;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// What came of a task.
pub(super) enum Raw {
    Small(Box<[u8]>),
    Large(Box<Envelope>),
    Died(Identity, Ending),
    TimedOut(Identity, Duration),
    /// Its worker was ended: what it may have taken, and what it took, in bytes.
    TookTooMuch(Identity, u64, u64),
    /// It could not be sent.
    Refused(String),
    /// The pool has given up.
    NotDone(String),
}

pub(super) fn this_process() -> Identity {
    Identity::new(proc::pid(), "this process")
}

impl Raw {
    /// The result, or why there is none.
    pub(super) fn open<R: DeserializeOwned>(self) -> Result<R, TaskError> {
        match self {
            Raw::Small(bytes) => match &bytes[..] {
                [verdict, place, payload @ ..] => {
                    let open = |payload: &[u8], arrived| open(*verdict, payload, arrived);
                    worker::unpack(*place, payload, Vec::new(), open).unwrap_or_else(|| Err(damaged()))
                }
                _ => Err(damaged()),
            },
            Raw::Large(mut envelope) => {
                let blocks = std::mem::take(&mut envelope.buffers);
                let Some([verdict, place, payload @ ..]) = envelope.inline.get(8..) else { return Err(damaged()) };
                let open = |payload: &[u8], arrived| open(*verdict, payload, arrived);
                worker::unpack(*place, payload, blocks, open).unwrap_or_else(|| Err(damaged()))
            }
            Raw::Died(process, ending) => Err(process::ended(process, ending)),
            Raw::TimedOut(process, after) => Err(TaskError::TimedOut { process, after }),
            Raw::TookTooMuch(process, limit, used) => Err(TaskError::MemoryLimit { process, limit, used }),
            Raw::Refused(detail) => Err(TaskError::Codec { process: this_process(), detail }),
            Raw::NotDone(detail) => Err(TaskError::NotDone { process: this_process(), detail }),
        }
    }
}

fn open<R: DeserializeOwned>(verdict: u8, payload: &[u8], arrived: Arrived) -> Result<R, TaskError> {
    match verdict {
        verdict::RETURNED => wire::decode(payload, arrived)
            .map_err(|error| TaskError::Codec { process: this_process(), detail: error.to_string() }),
        verdict::PANICKED => {
            let (pid, name, message, location): (i32, String, String, Option<String>) =
                wire::decode(payload, arrived).map_err(|_| damaged())?;
            Err(TaskError::Panicked { process: Identity::new(pid, name), message, location })
        }
        _ => {
            let (pid, name, detail): (i32, String, String) = wire::decode(payload, arrived).map_err(|_| damaged())?;
            Err(TaskError::Codec { process: Identity::new(pid, name), detail })
        }
    }
}

fn damaged() -> TaskError {
    let detail = EngineError::Damaged { what: "pool", detail: "a result does not parse" }.to_string();
    TaskError::Codec { process: this_process(), detail }
}
