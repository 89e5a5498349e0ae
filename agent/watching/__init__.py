"""The watch after a promotion: live play is compared with what the gate saw, and a fall leads to a rollback or to a finding."""
