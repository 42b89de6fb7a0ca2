SELECT 'the benchmark writes the online store itself' AS never_run
