"""Fresh replies of a policy: seeded by row, drawn in fixed groups, each group a stage of its own."""
