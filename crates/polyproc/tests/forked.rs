//! The crash matrix with a zygote that was forked by `#[polyproc::main]`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

mod common;

#[polyproc::main]
fn main() {
    assert!(polyproc_engine::process::zygote::start(|_| 1).unwrap(), "it was forked already");
    let tests: [(&str, fn()); 5] = [
        ("every_end_is_told_apart", common::every_end_is_told_apart),
        ("a_process_has_processes_of_its_own", common::a_process_has_processes_of_its_own),
        ("the_children_of_a_killed_process_end_soon", common::the_children_of_a_killed_process_end_soon),
        ("a_lock_outlives_its_holders", common::a_lock_outlives_its_holders),
        ("nothing_is_left", common::nothing_is_left),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    let here = common::every_end_is_told_apart as fn() as usize;
    assert!(polyproc_engine::process::zygote::images()[0].has(here));
}
