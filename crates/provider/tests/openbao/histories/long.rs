//! The rounds of `cargo xtask test --long`.

use testkit::stored::random;

const ROUNDS: usize = 40;

#[tokio::test]
#[ignore = "long: forty random histories take many minutes"]
async fn verdicts_equal_direct_decryption_in_many_random_histories() {
    super::rounds((0..ROUNDS).map(|_| u64::from_le_bytes(random()))).await;
}
