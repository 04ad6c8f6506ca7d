//! Resets an owner's password by e-mail, as a web application does: token, e-mail, new password, log-in.
//!
//!     cargo run --example reset_password -- http://127.0.0.1:50051 bella@example.com "tulips under a lamp"
//!
//! With `TENANT_ID`, first gives that tenant this owner, who has no password yet. A real application does the first
//! half when someone fills in the form "forgot password", and the second half when the owner follows the link. It needs
//! the roles `owner_manager` and `verifier`.

use std::error::Error;

use turnkey_client::{
    Connector,
    pb::{
        CreateOwnerTokenRequest, OwnerTokenPurpose, ResetPasswordRequest, SetOwnerRequest, Verdict,
        VerifyPasswordRequest,
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, email, new_password] = &arguments[..] else {
        return Err("usage: reset_password URL EMAIL NEW_PASSWORD".into());
    };
    let client = Connector::new(url)?.connect().await?;
    if let Ok(tenant_id) = std::env::var("TENANT_ID") {
        client.send(SetOwnerRequest { tenant_id, email: email.clone(), password: None }).await?;
    }

    // The form shows "If the address is known, you will get an e-mail" in both cases, before the e-mail is sent.
    let purpose = OwnerTokenPurpose::ResetPassword.into();
    let request = CreateOwnerTokenRequest { email: email.clone(), purpose, ttl: None };
    let token = client.send(request).await?.token;
    if token.is_empty() {
        println!("no owner has this address: nothing is sent");
        return Ok(());
    }
    println!("{}", mail_text(&token));

    // The page behind the link reads the token from the part of the URL that browsers do not send to servers. A repeat
    // of this call with the same password is safe.
    let request = ResetPasswordRequest { token, new_password: new_password.clone() };
    let reset = client.send(request).await?;
    if reset.verdict() != Verdict::Valid {
        return Err("the link is no longer valid: request another one".into());
    }

    let request = VerifyPasswordRequest { email: email.clone(), password: new_password.clone(), client_address: None };
    let log_in = client.send(request).await?;
    println!("logged in {} tenant {}", log_in.verdict() == Verdict::Valid, log_in.tenant_id);
    Ok(())
}

fn mail_text(token: &str) -> String {
    format!(
        "Someone asked to reset the password of your account. To choose a new one, follow this link within an hour:\n\n\
         https://app.example.com/reset-password#{token}\n\n\
         If it was not you, ignore this e-mail: your password stays as it is.\n"
    )
}
