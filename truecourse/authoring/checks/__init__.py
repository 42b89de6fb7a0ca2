"""What `truecourse check` looks at, one file a subject. Checks yield faults; a wrong problem never makes one raise."""
