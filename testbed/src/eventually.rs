//! Waiting for something to become true: asked again and again until a deadline, never slept for.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`, or the deadline has passed.
///
/// # Errors
/// What the last answer was, with the time waited.
pub async fn eventually<T, E: Display, F: Future<Output = Result<T, E>>>(
    deadline: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, Late> {
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() >= end => return Err(Late { deadline, last: why.to_string() }),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The deadline has passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not within {} s: {last}", deadline.as_secs_f32())]
pub struct Late {
    /// How long it was waited.
    pub deadline: Duration,
    /// The last answer.
    pub last: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_is_given_and_a_late_one_is_told_with_the_last_reason() {
        let mut asked = 0;
        let answer = eventually(Duration::from_secs(1), || {
            asked += 1;
            let now = asked;
            async move { if now < 5 { Err(format!("only {now}")) } else { Ok(now) } }
        });
        assert_eq!(answer.await, Ok(5));
        let late =
            eventually(Duration::from_secs(2), || async { Err::<(), _>("still down") }).await.unwrap_err();
        assert_eq!(late.to_string(), "not within 2 s: still down");
    }
}
