//! Work done by a few threads, its results in the order in which it was given out.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::source::WINDOW;

/// Threads at most: unpacking scales further, and the order of results then costs memory.
const THREADS_MAX: usize = 4;

/// How many threads this machine should have for it.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

type Outcome<R, E> = (u64, Result<Result<R, E>, Box<dyn Any + Send>>);

/// Takes jobs from `next` until it gives none, has `work` done on `threads` threads (each with a
/// state of its own), and hands the results to `take` in the order of the jobs. `next` and `take`
/// run on the calling thread. The first error in that order ends it; at most `threads` times
/// [`WINDOW`] jobs are anywhere between `next` and `take`.
pub(crate) fn in_order<J, R, E, W>(
    threads: usize,
    mut next: impl FnMut() -> Result<Option<J>, E>,
    work: impl Fn(&mut W, J) -> Result<R, E> + Sync,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E>
where
    J: Send,
    R: Send,
    E: Send,
    W: Default,
{
    let window = threads.max(1) * WINDOW;
    let (jobs, queue) = bounded::<(u64, J)>(window);
    let (results, done) = unbounded::<Outcome<R, E>>();
    thread::scope(|scope| {
        for number in 0..threads.max(1) {
            let (queue, results, work) = (queue.clone(), results.clone(), &work);
            thread::Builder::new()
                .name(format!("image-{number}"))
                .spawn_scoped(scope, move || serve(&queue, &results, work))
                .expect("the system gives a few threads");
        }
        // The threads end when the last sender of jobs is dropped, with this closure.
        let jobs = jobs;
        let (mut given, mut taken) = (0_u64, 0_u64);
        let mut early = BTreeMap::new();
        let mut more = true;
        loop {
            while more && given - taken < window as u64 {
                match next()? {
                    Some(job) => {
                        // The queue holds a whole window, and the threads outlive this loop.
                        jobs.send((given, job)).expect("a thread takes it");
                        given += 1;
                    }
                    None => more = false,
                }
            }
            if given == taken {
                return Ok(());
            }
            let (number, result) = done.recv().expect("a thread answers each job");
            early.insert(number, result.unwrap_or_else(|panic| resume_unwind(panic)));
            while let Some(result) = early.remove(&taken) {
                take(result?)?;
                taken += 1;
            }
        }
    })
}

fn serve<J, R, E, W: Default>(
    queue: &Receiver<(u64, J)>,
    results: &Sender<Outcome<R, E>>,
    work: &impl Fn(&mut W, J) -> Result<R, E>,
) {
    let mut state = W::default();
    for (number, job) in queue {
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut state, job)));
        if results.send((number, result)).is_err() {
            return; // nobody waits any more
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(threads: usize, count: u64, fails_at: Option<u64>) -> (Result<(), u64>, Vec<u64>) {
        let (mut place, mut taken) = (0, Vec::new());
        let next = || {
            place += 1;
            Ok((place <= count).then_some(place))
        };
        let work = |seen: &mut u64, job: u64| {
            *seen += 1;
            if fails_at.is_some_and(|bad| job >= bad) { Err(job) } else { Ok(job * job) }
        };
        let ended = in_order(threads, next, work, |square| {
            taken.push(square);
            Ok(())
        });
        (ended, taken)
    }

    #[test]
    fn results_come_in_the_order_of_their_jobs() {
        for threads in [1, 4] {
            let (ended, taken) = squares(threads, 1000, None);
            assert_eq!(ended, Ok(()));
            assert_eq!(taken, (1..=1000).map(|n| n * n).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let (ended, taken) = squares(4, 1000, Some(500));
        assert_eq!((ended, taken.len()), (Err(500), 499));
        assert_eq!(squares(4, 0, None), (Ok(()), vec![]));
    }

    #[test]
    fn a_panic_of_a_thread_is_passed_on() {
        let caught = catch_unwind(|| {
            let mut left = 3;
            let next = || {
                left -= 1;
                Ok::<_, ()>((left >= 0).then_some(left))
            };
            in_order(2, next, |(): &mut (), job: i32| Ok(10 / job), |_| Ok(()))
        });
        assert!(caught.is_err());
    }
}
