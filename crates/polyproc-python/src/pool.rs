//! The pool of the Python face, over the engine's ledger.
//!
//! ```text
//!  apply, map ─▶ Job ─▶ backlog ─ feed ─▶ lanes ═▶ worker: decode, call, encode
//!                 ▲                                    ║
//!  get() ─────────┴─── collect ◀────────── results ◀═══╝
//! ```
//!
//! * [`cargo`]: objects as the payload of tasks and results.
//! * [`function`]: functions, stored once for all workers.
//! * [`job`]: a call of `apply`, `map` or `imap`; [`jobs`]: those that are not settled; [`results`]: what has come of its tasks.
//! * [`desk`]: the ledger with the jobs; [`lead`]: who does the work; [`feed`]: from a call to tasks in the lanes; [`collect`]:
//!   from the lanes to the jobs.
//! * [`seat`]: a worker's place.
//! * [`outcome`]: results as Python sees them.
//! * [`worker`]: the loop of a worker.
//!
//! **Invariant:** locks are held for bookkeeping; no Python code runs under them, and nobody waits for one that the holder
//! would need the interpreter to give back.

mod cargo;
mod collect;
mod desk;
mod feed;
mod function;
mod job;
mod jobs;
mod lead;
mod outcome;
mod results;
mod seat;
mod worker;

use pyo3::prelude::*;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<desk::Desk>()?;
    module.add_class::<seat::Seat>()?;
    module.add_class::<outcome::Outcome>()?;
    module.add_class::<outcome::Stream>()?;
    worker::register(module)
}
