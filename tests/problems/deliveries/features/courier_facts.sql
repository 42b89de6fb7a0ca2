SELECT courier, vehicle, since FROM couriers
