SELECT tailnum, year AS plane_year, manufacturer AS plane_maker, seats AS plane_seats FROM planes
