mod bed_itself;
