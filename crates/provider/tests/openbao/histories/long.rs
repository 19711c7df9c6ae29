//! The rounds of `cargo xtask test --long`.

const ROUNDS: usize = 40;

#[tokio::test]
#[ignore = "long: forty random histories take many minutes"]
async fn verdicts_equal_direct_decryption_in_many_random_histories() {
    super::random_rounds(ROUNDS).await;
}
