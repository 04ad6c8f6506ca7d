//! `turnkey import`: input that is refused as a whole, standard input, targets that cannot be used, and keys that an
//! operator has changed.

use std::{
    fs::{self, File},
    process::Stdio,
};

use crate::{
    import::{Import, stderr, tenants},
    support::{
        database::Cluster,
        fixture::{Fixture, NewTenant},
        process::{Process, database_url, temp_folder, turnkey},
        requests::another_key,
    },
};

fn assert_no_files(import: &Import<'_>) {
    for file in ["keys.csv", "keys.csv.journal"] {
        assert!(!import.path(file).exists(), "{file} was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hides_rows_is_refused_whole_although_invalid_rows_are_to_be_skipped() {
    let fixture = Fixture::start().await;
    let many = tenants(291);
    let utf_16 = "slug,name\nbella,Bella\n".encode_utf16().flat_map(u16::to_le_bytes);
    for (input, expected) in [
        (
            b"slug,name\nbella,Bella\nomer,\"Omer's Ca".to_vec(),
            "tenants.csv: line 3: the quote that opens a field here",
        ),
        (many.replacen(',', ",\"", 4).into_bytes(), "tenants.csv: line "),
        (many.replacen("tenant-0,\"", "tenant-0,", 1).into_bytes(), "tenants.csv: line 2: a quote within a field"),
        (b"slug,name,name\nbella,Bella,Other\n".to_vec(), "tenants.csv: the column name occurs 2 times"),
        (b"slug,name,email\nbella,Bella,x\n".to_vec(), "tenants.csv: unknown column \"email\""),
        (utf_16.collect(), "tenants.csv: is in UTF-16: save it as UTF-8"),
    ] {
        let import = Import::new(&fixture, "");
        fs::write(import.path("tenants.csv"), &input).unwrap();
        let output = import.run(&["--skip-invalid"]);
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_no_files(&import);
    }
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_can_come_from_standard_input() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(1));
    let run = || {
        let mut command = turnkey(import.path("").as_path());
        let input = File::open(import.path("tenants.csv")).unwrap();
        command.args(["import", "-", "--out", "keys.csv"]).stdin(Stdio::from(input));
        command.env("DATABASE_URL", database_url(&fixture.database.server)).output().unwrap()
    };
    let output = run();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("1 row: 1 imported, 0 rejected"), "{}", stderr(&output));
    fs::write(import.path("tenants.csv"), tenants(3)).unwrap();
    let output = run();
    assert!(stderr(&output).contains("1 of 3 rows is already imported"), "{}", stderr(&output));
    import.assert_all_keys_work(3).await;

    fs::write(import.path("tenants.csv"), "slug,name\nbella,\"Bella").unwrap();
    assert!(stderr(&run()).contains("standard input: line 2: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_cannot_start_leaves_no_files() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(3));
    for server in ["htttps://127.0.0.1:50051", "grpc://127.0.0.1:50051", "127.0.0.1:50051"] {
        let output = import.run(&["--server", server]);
        assert_eq!(output.status.code(), Some(2));
        let expected = "--server: must be http:// or https://";
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert_eq!(import.run(&["--server", "http://127.0.0.1:1"]).status.code(), Some(1));
    // A keys file of another import.
    fs::write(import.path("keys.csv"), "slug,tenant_id,public_key,secret_key\n").unwrap();
    assert!(import.run(&[]).status.success());
    fs::remove_file(import.path("keys.csv.journal")).unwrap();
    let before = import.keys();
    let output = import.run(&[]);
    assert!(stderr(&output).contains("without its journal"), "{}", stderr(&output));
    assert!(!import.path("keys.csv.journal").exists());
    assert_eq!(import.keys(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_of_a_server_is_compared_without_case() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(1));
    let output = import.run(&["--server", &format!("HTTP://{}", fixture.server.address)]);
    assert!(output.status.success(), "{}", stderr(&output));
    // Nothing is sent to a server without TLS.
    let other = Import::new(&fixture, &tenants(1));
    let output = other.run(&["--server", &format!("HTTPS://{}", fixture.server.address)]);
    assert!(stderr(&output).contains("cannot reach the server"), "{}", stderr(&output));
    assert_no_files(&other);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_a_database_that_is_not_migrated_say_what_to_do() {
    let database = Cluster::get().empty().await;
    let folder = temp_folder();
    fs::write(folder.path().join("tenants.csv"), tenants(1)).unwrap();
    for arguments in
        [&["doctor"][..], &["purge", "--older-than", "30d"], &["import", "tenants.csv", "--out", "keys.csv"]]
    {
        let mut command = turnkey(folder.path());
        let output = command.args(arguments).env("DATABASE_URL", database_url(&database.server)).output().unwrap();
        let expected = "turnkey: the database is not migrated: run `turnkey migrate`\n";
        assert_eq!((output.status.success(), stderr(&output).as_str()), (false, expected), "{arguments:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_a_running_server_suggests_to_import_through_it() {
    let folder = temp_folder();
    fs::write(folder.path().join("tenants.csv"), tenants(1)).unwrap();
    let mut server = Process::start(turnkey(folder.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    server.address();
    let output = turnkey(folder.path()).args(["import", "tenants.csv", "--out", "keys.csv"]).output().unwrap();
    assert!(stderr(&output).contains("pass --server with its URL"), "{}", stderr(&output));
    assert!(!folder.path().join("keys.csv").exists() && !folder.path().join("keys.csv.journal").exists());
}

impl Import<'_> {
    /// Removes the rows of the keys file, as if the import had been killed before it wrote them.
    fn lose_keys(&self) {
        let text = fs::read_to_string(self.path("keys.csv")).unwrap();
        fs::write(self.path("keys.csv"), text.lines().next().unwrap()).unwrap();
    }

    async fn let_a_day_pass(&self) {
        let sql = "UPDATE idempotency_records SET created_at = created_at - interval '25 hours'";
        self.fixture.database.execute(sql).await;
    }

    /// The tenants that were imported, by slug. Their keys are in the keys file.
    fn tenant(&self, slug: &str) -> NewTenant {
        let (id, public_key, secret_key) = self.keys().remove(slug).unwrap();
        NewTenant { id, public_key, secret_key, general_id: String::new(), package_ids: Vec::new() }
    }
}

async fn resume_after_changes_of_an_operator(through_server: bool) {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(4));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if through_server { &["--server", &server] } else { &[] };
    assert!(import.run(arguments).status.success());
    let [rotated, replaced, revoked] = ["tenant-0", "tenant-1", "tenant-2"].map(|slug| import.tenant(slug));
    let by_hand = [
        fixture.rotate(&rotated, None).await.secret_key,
        fixture.rotate(&replaced, Some(time::Duration::ZERO)).await.secret_key,
        // A key beside the one that the import has created, which the import replaces alone.
        fixture.create_key(another_key(&import.tenant("tenant-3").id)).await.unwrap().secret_key,
    ];
    fixture.revoke(&revoked.id, &revoked.public_key).await.unwrap();
    for day in 0..2 {
        import.lose_keys();
        let output = import.run(arguments);
        assert_eq!(output.status.code(), Some(1), "day {day}");
        assert!(stderr(&output).contains("4 rows: 1 imported, 3 rejected"), "{}", stderr(&output));
        for slug in ["tenant-0", "tenant-1", "tenant-2"] {
            assert!(stderr(&output).contains(&format!("{slug}: the secret of its key is lost")), "{}", stderr(&output));
        }
        import.assert_all_keys_work(1).await;
        for secret_key in &by_hand {
            assert_eq!(fixture.verify(secret_key).await.verdict(), turnkey::grpc::pb::Verdict::Valid);
        }
        import.let_a_day_pass().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_import_does_not_rotate_a_key_that_an_operator_has_rotated() {
    resume_after_changes_of_an_operator(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_resumed_through_a_server_does_not_rotate_a_key_that_an_operator_has_rotated() {
    resume_after_changes_of_an_operator(true).await;
}

async fn lose_rotated_keys(through_server: bool) {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(3));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if through_server { &["--server", &server] } else { &[] };
    let resume = async |keys: i64| {
        let output = import.run(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        import.assert_all_keys_work(3).await;
        assert_eq!(fixture.row_counts().await, [3, 3, 9, keys]);
    };
    resume(3).await;
    import.let_a_day_pass().await;
    import.lose_keys();
    resume(6).await;
    // Killed before the new keys were in the file: the rotation is replayed.
    let rotated = import.keys();
    import.lose_keys();
    resume(6).await;
    assert_eq!(import.keys(), rotated);
    // A day later the secrets of the rotated keys are lost, too.
    import.let_a_day_pass().await;
    import.lose_keys();
    resume(9).await;
    // An operator rotates a key that the import has rotated.
    let by_hand = fixture.rotate(&import.tenant("tenant-1"), Some(time::Duration::ZERO)).await.secret_key;
    import.let_a_day_pass().await;
    import.lose_keys();
    let output = import.run(arguments);
    assert!(stderr(&output).contains("3 rows: 2 imported, 1 rejected"), "{}", stderr(&output));
    assert_eq!(fixture.verify(&by_hand).await.verdict(), turnkey::grpc::pb::Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_import_has_rotated_is_not_lost_when_the_import_is_killed() {
    lose_rotated_keys(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_import_has_rotated_through_a_server_is_not_lost_when_the_import_is_killed() {
    lose_rotated_keys(true).await;
}
